"""`edgewise play`: a session in the terminal, or over plain stdin and stdout. Start reading at `flow.play`."""
