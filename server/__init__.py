"""The outside of Edgewise: the HTTP server, its wire shapes, settings, logs, and the command line."""
