"""A provider that misbehaves as it is told: the OpenAI chat API on a socket, for tests and for users' clients.

`http` reads requests and frames answers, `reply` is one answer as data, `sending` writes it,
`faults` names what may go wrong with it, `speaking` makes an answer where nobody gave one,
`script` reads what to answer in turn, `provider` decides, and `service` is the command.
"""
