"""The packaged brain: the front desk of a small company, for a demonstration with no configuration and no key.

Every sentence it can say has a clip in `clips/` (written by `python -m bridge.localmodel.make_clips`), so it speaks
without any extra.
"""

from __future__ import annotations

from typing import Any

FRONT_DESK: dict[str, Any] = {
    "name": "front desk",
    "greeting": "Hello, this is the front desk. How can I help you?",
    "confirm": "You asked {about}.",
    "fallback": [
        "I'm sorry, I did not understand that.",
        "I'm sorry, I did not understand. You can ask about our opening hours, our address, or our prices.",
    ],
    "prompts": {
        "still there": "Are you still there?",
        "gone quiet": "I cannot hear you any more. Goodbye.",
        "time limit": "We have reached the end of our time. Goodbye.",
        "half a minute": "I'm sorry, this call has to end in about half a minute.",
        "goodbye": "Thank you for calling. Goodbye.",
        "greet": "Hello, this is the front desk. How can I help you?",
    },
    "intents": [
        {
            "name": "opening hours",
            "about": "about our opening hours",
            "phrases": [
                "(what are | tell me) your opening hours",
                "when are you open",
                "when do you open",
                "are you open on saturday",
                "what time do you close",
            ],
            "answer": "We are open from nine in the morning until five in the afternoon, Monday to Friday. "
            "On Saturday we are open until noon, and on Sunday we are closed.",
            "digits": "1",
        },
        {
            "name": "address",
            "about": "where to find us",
            "phrases": [
                "what is your address",
                "where are you located",
                "where can i find you",
                "how do i get there",
            ],
            "answer": "We are at twelve Station Road, opposite the railway station.",
            "digits": "2",
        },
        {
            "name": "parking",
            "about": "about parking",
            "phrases": ["where can i park [my car]", "is there any parking nearby", "do you have parking"],
            "answer": "You can park behind the building. The first two hours are free.",
        },
        {
            "name": "prices",
            "about": "about our prices",
            "phrases": ["how much does it cost", "what are your prices", "tell me the price"],
            "answer": "A visit costs twenty five dollars. Children pay half.",
            "digits": "3",
        },
        {
            "name": "appointment",
            "about": "for an appointment",
            "phrases": [
                "i would like to make an appointment",
                "i want to book an appointment",
                "can i book a table",
            ],
            "answer": "I have written that down. Somebody will call you back today to agree on a time.",
            "digits": "4",
        },
        {
            "name": "somebody",
            "about": "to speak to somebody",
            "phrases": [
                "i want to speak to somebody",
                "can i speak to a person",
                "connect me to an operator",
            ],
            "answer": "One moment, I will put you through.",
            "then": {"name": "transfer", "arguments": {"target": "operator"}},
            "digits": "0",
        },
        {
            "name": "repeat",
            "phrases": ["can you repeat that", "say that again"],
            "confirm": "",
            "answer": "I can tell you about our opening hours, our address, parking, or our prices.",
        },
        {
            "name": "thanks",
            "phrases": ["thank you very much", "thanks a lot"],
            "confirm": "",
            "answer": "You are welcome. Is there anything else?",
        },
        {
            "name": "goodbye",
            "phrases": ["goodbye", "that is all", "no that is all thank you", "bye bye"],
            "confirm": "",
            "answer": "Thank you for calling. Goodbye.",
            "then": "hang_up",
            "digits": "9",
        },
    ],
}
