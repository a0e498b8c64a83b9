"""A differential fuzzer: random programs run on the standard loop and on this one, and everybody must see the same.

A program is a list of steps, a step a list of operations (`operations.py`) on things (`kinds.py` names the modules).
The far ends are plain sockets of the harness.  After each step everything comes to rest, and each thing gives a
*view*: what its callbacks and its far end have seen so far.  This loop has to reach the standard loop's views, stay
there, and sleep.

What may differ from the standard loop, and is therefore not in a view:

- how a stream of bytes is cut into pieces, and how many turns anything takes.  Where a far end acts in the turn in
  which something is written, the program goes round once before that: what may wait for the end of a turn stands in
  flexsc_loop/README.md;
- where the far end acts, or reading is resumed, and we close, abort, pause, write or answer in one step: which comes
  first;
- how much the kernel and the transports hold in between.  So how much the far end gets of a stream that was aborted,
  reset, or closed with unread data in it (it has to be a beginning of what was written), and whether a reset or an
  end is what it sees then;
- whether an error that comes back to a datagram endpoint in the step in which it is closed is told before that;
- how often `pause_writing` and `resume_writing` are called (they take turns; what holds at rest is compared, but not
  with TLS, where the standard loop has two buffers and looks at one of them);
- when it is noticed that a far end has gone, if we write to it after that;
- with TLS, what `close()` and `write()` do after an end that came while we were paused (the standard loop does nothing
  until we resume);
- which of the network's errors (`ConnectionResetError`, `BrokenPipeError`, …) ends a connection;
- whether a call or its cancellation wins where both happen in one step; the data is there for the next one then;
- the context of what `resume_reading`, `close` and `abort` cause (Python 3.15 changed it): the programs call them in
  the connection's own;
- with TLS, whether what is called soon runs between data and the end (the standard loop's own code does not let it),
  which error ends a connection that was closed while data came, and whether `close()` delivers that;
- with TLS, whether an end is told that came with the data out of which the protocol ended the loop (`SystemExit`): the
  standard loop forgets it, and the connection then waits for something else to come;
- whether `close()` lets a file that is being sent go out before `connection_lost` (the standard loop cuts it off, and
  its `sendfile` waits for ever);
- with TLS, what is told after a `close()` while a file is sent (the standard loop takes the peer's end for a mistake);
- whether a closed socket can be taken back with `remove_reader` that was registered while a `sock_*` call waited on it
  (the standard loop knows it by its number then, and raises `ValueError`);
- what methods of a transport raise once it is closing, with which error `sendfile` on it fails, and whether a datagram
  is sent that was given to an endpoint after `close()`;
- whether what is written is sent before the turn's end, unless `FLEXSC_WRITES=now` tells the loop so;
- whether reading goes on after a `sendfile` during which it was paused (the standard loop resumes it);
- the words of what reaches the exception handler: the kinds of exceptions are compared.

What has to hold on any loop is checked as it happens: bytes are intact and in order; `connection_made` comes first,
`connection_lost` last and once; nothing is delivered while paused or after the end; callbacks run in the context of
their thing; a loop at rest has nothing to do; nothing is left in flight, open or running after the program.
"""
