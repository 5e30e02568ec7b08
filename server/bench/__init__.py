"""The tester's commands, and the pytest plugin."""
