"""A differential fuzzer: random sequences of public calls on asyncio and on aioxide must do the same.

`python -m fuzz --help` says how to run it. A sequence is a list of steps, each a list of a name and small numbers, so
it can be printed, replayed and shrunk. `sequences` draws them, `world` carries one out on one loop and writes down
what is seen, `compare` sets two such accounts side by side, `workers` does that in processes that may crash or hang,
`shrink` makes a failing sequence small. The steps themselves are in `scheduling`, `connections`,
`sockets`, `endpoints`, `system`, `tls` and `tls_peer_steps`.

`python -m fuzz.records` is the other fuzzer here: TLS records that are not what they should be. `mutations` says how,
`record` makes its corpus, `tls_peers` is the other end in both.

Two loops need not take the same number of turns to connect or to accept, and how bytes are cut into pieces is nobody's
promise. So an account has channels (scheduling is one, each connection is one) whose order counts, and the order
between channels does not; and a step whose number of turns is open lets the loop come to rest before the next one.
"""
