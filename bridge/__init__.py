"""voice-bridge puts a speech-to-speech model behind a phone number.

One idea carries it: deciding is separate from doing. A pure `Call` takes facts and the time and returns requests;
everything else translates (dialects) or touches the world (shells).

    actions = call.handle(event, now)    facts in, requests out; whatever a peer sends, it answers
    when = call.deadline()               if nothing happens until then: handle(DeadlineReached(), now)
    call.over                            becomes true once; after that there are no more requests

Rooms. P is pure: no await, no socket, no file, no clock. S is a shell. A room imports only rooms above it:

    errors       P  one tree of exceptions; EndReason
    children     P  how a process of ours starts another
    reading      P  what somebody wrote: YAML, and from it a struct; every mistake told with its key
    call         P  what a call is: events (facts), actions (requests), plan, machine, playout (what was heard), turns
    audio        P  arithmetic on sound: formats, G.711, filters, the live path, timeline, speech detection, WAV
    telephony    P  carriers' dialects: stream messages, TwiML, signatures, layouts of REST requests
    realtime        the model's side: profiles, dialects (P), and a client for Python programmers (S)
    tools        S  what an agent can do: built in, or functions of the operator's
    settings     S  the door: all configuration, checked as a whole, leaves as frozen plans
    metrics, log    watching and writing down
    records      S  what is kept of calls: journals
    live         S  where calls meet sockets and time: driver, both legs, switchboard
    web          S  the HTTP face: webhooks, media socket, probes; the service as one object, and as several processes
    sim          S  the telephone network, simulated; imports errors, audio and reading only
    localmodel   S  a realtime model on this machine; imports errors, children, audio and reading only
    rehearsal    S  calls between those two: the demo, scenarios, conversations in a terminal
    process      S  this process: how it begins, runs work on an event loop, is told to end, and ends
    cli          S  the command line, a thin call into a room each

`sim` and `localmodel` are second, independent readings of the documents: sharing a dialect with the service would let
both agree on the same mistake.

What belongs where:

    field names, ids, signatures, TwiML of a carrier         telephony, one file a carrier
    a service's event names, session shape, error codes      realtime: profiles.yaml, and a file an API shape
    when to hang up, ask again, reconnect, give up           call, by deadlines
    connecting, waiting, performing a request                live
    milliseconds <-> bytes, codecs, filter state             audio
    how far ahead to send, what was heard                    call.playout and call.reckoning
    how an agent behaves: barge-in, voice, prompt, limits    config/agents/*.yaml
    secrets, ports, addresses, limits of the process         settings, from the environment
    figures and journals                                     watchers of (now, event, actions)
    peers that misbehave                                     scripts of sim and localmodel

A call: webhook -> `web.webhooks` -> `settings.Directory` makes its `CallPlan` -> `live.Switchboard` gives a single-use
token and begins to open the model's session -> the carrier's stream brings the token back -> `live.Driver` owns the
call: what arrives on either leg becomes a fact, is handled where it arrived, and the requests are performed before
anything else happens.
"""

__version__ = "0.1.0"
