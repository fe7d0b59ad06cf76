"""The telephone network, simulated, and the calls that are rehearsed on it.

It is written from the carrier's documents and knows nothing of the service: besides sound arithmetic, the tree of
errors and the reading of what somebody wrote it imports nothing of this project, so that it can call any Twilio-style
server.

    carrier, rest      an account: numbers, callers, callees, the REST interface
    execution, twiml   what a call does: webhooks, verbs, callbacks
    leg, caller        one call as its caller lives it
    stream, playout    a media stream: frames, marks, clears, what was heard to the sample
    network, doors     delays and faults; how servers are reached
    account, wire, signature, timeline
    virtual, memory    a loop whose time is virtual, with connections in memory
    voices, noise      what callers sound like
    scenario, actor    a call as a file, and who acts it
    outcome, sounds    what it was like
    figures, measures, judge, words
    picture, report, page
"""
