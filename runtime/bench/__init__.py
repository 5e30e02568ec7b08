"""The tester's bench: what plays, measures and searches machines, without a server and without a journal."""
