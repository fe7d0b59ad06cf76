"""A realtime model on this machine: an OpenAI-Realtime-compatible server that needs no key and no network.

It is what a call is rehearsed against, and a second, independent reading of the services' documents: nothing here
imports a dialect or the call.

    server         sockets, keys, which brain and which script a connection gets; attach() is the same without sockets
    attached       one session with its ears, its recogniser, its script and the loop's clock
    session        the protocol, pure: client events, speech, recognition and time in, server events out
      settings       the session object and `session.update`        wishes     `response.create` read
      items          the conversation's items and their truncation  response   one response, event by event
      caller_audio   the input buffer in the session's audio time    usage      tokens
      recognitions   which recognition a turn's meaning comes from   wire       GA and beta
    mind           what to answer; brain and reader: an agent file's `local:` section; frontdesk: the packaged one
    ear            turn detection               hearing, worker, phones   recognition, in a process of its own
    speech         espeak-ng, or packaged clips (made by make_clips)
    script         misbehaviour on request, which outlet does        sockets    the lines a session's frames go into
"""

EXTRA = "the extra `local` (in a checkout: pip install -e '.[local]')"
