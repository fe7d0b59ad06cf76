"""What a session answers: from the conversation, what was recognised, and the brain.

An answer may have to wait for recognition; everything else is decided at once.
"""

from __future__ import annotations

from bridge.localmodel.brain import Brain, Dialogue, Heard, Reply, Say, UseTool, digits_in
from bridge.localmodel.items import Conversation, Item
from bridge.localmodel.response import Response
from bridge.localmodel.wishes import Wish


class Mind:
    """`hears` is False where no recogniser is at hand: the brain's lines then follow one another, one per turn."""

    def __init__(self, brain: Brain, conversation: Conversation, *, hears: bool) -> None:
        self._dialogue = Dialogue(brain)
        self._conversation = conversation
        self._hears = hears
        self._heard: dict[str, Heard] = {}  # user item -> what was recognised
        self._pending: set[str] = set()  # user items under recognition
        self._answered: set[str] = set()
        self._spoke = False

    @property
    def brain(self) -> Brain:
        return self._dialogue.brain

    def change_brain(self, brain: Brain) -> None:
        self._dialogue = Dialogue(brain)

    def listening(self, item_id: str) -> None:
        """Recognition of this item has begun."""
        self._pending.add(item_id)

    def heard(self, item_id: str, heard: Heard) -> None:
        self._pending.discard(item_id)
        self._heard[item_id] = heard

    def nothing_to_answer(self, item_id: str) -> None:
        self._answered.add(item_id)

    def responded(self, response: Response) -> None:
        """A response ended. One that said nothing leaves its question open, for the next to answer."""
        self._spoke = self._spoke or bool(response.output)
        if response.output:
            self._answered |= response.answers

    def reply(self, response: Response) -> Reply | None:
        """What to say and do; None, and `response.waits_for` set, while recognition runs."""
        wish = response.wish
        if wish.forced:
            return (self._forced(wish.forced),)
        reply = self._meant(response, wish)
        if reply is None or not wish.must_call or any(isinstance(part, UseTool) for part in reply):
            return reply
        return (self._forced(wish.tools[0]),) if wish.tools else reply

    def _meant(self, response: Response, wish: Wish) -> Reply | None:
        """What the conversation or the instructions ask for."""
        instructed = self._dialogue.instructed(wish.instructions)
        if wish.given is not None:
            texts = [item.text for item in wish.given if item.text]
            if instructed or not texts:
                return instructed or self._dialogue.greeting()
            return self._dialogue.answer(self.brain.understand(texts[-1]), tools=wish.tools)
        question = self._open_question()
        if not response.manner.in_conversation:
            question = question or self._last_question()
            if instructed or not question:
                return instructed or self._dialogue.greeting()
            return self._answer(question, response, wish)
        response.answers = frozenset(item.id for item in question)
        if question and not (instructed and self._dialogue.quotes(wish.instructions)):
            return self._answer(question, response, wish)
        if instructed:
            return instructed
        return (Say(self.brain.still_there),) if self._spoke else self._dialogue.greeting()

    def _open_question(self) -> list[Item]:
        """The items at the end of the conversation which nobody answered yet, oldest first."""
        tail: list[Item] = []
        for item in reversed(self._conversation):
            if item.role == "assistant" or item.type == "function_call" or item.id in self._answered:
                break
            if item.role != "system" or digits_in(item.text):
                tail.append(item)
        return tail[::-1]

    def _last_question(self) -> list[Item]:
        """What the caller said last, answered or not."""
        return next(([item] for item in reversed(self._conversation) if item.role == "user"), [])

    def _answer(self, question: list[Item], response: Response, wish: Wish) -> Reply | None:
        """Tools first, then what the caller said or pressed last."""
        told = [item for item in question if item.type != "function_call_output"]
        if told and told[-1].id in self._pending:
            response.waits_for = told[-1].id
            return None
        reply: list[Say | UseTool] = []
        for item in question:
            if item.type == "function_call_output":
                reply.extend(self._dialogue.after_tool(self._tool_name(item), item.fields["output"]))
        for item in told[-1:]:
            reply.extend(self._answer_caller(item, wish))
        return tuple(reply)

    def _answer_caller(self, item: Item, wish: Wish) -> Reply:
        if item.is_audio and not self._hears:
            return self._dialogue.next_line()
        if item.is_audio:
            return self._dialogue.answer(self._heard.get(item.id, Heard(None, "")), tools=wish.tools)
        digits = digits_in(item.text)
        if digits and (item.role == "system" or self.brain.intent_of_digits(digits)):
            return self._dialogue.digits(digits, tools=wish.tools)
        return self._dialogue.answer(self.brain.understand(item.text), tools=wish.tools)

    def _tool_name(self, output: Item) -> str:
        calls = (item for item in self._conversation if item.type == "function_call")
        return next((call.fields["name"] for call in calls if call.fields["call_id"] == output.fields["call_id"]), "")

    def _forced(self, name: str) -> UseTool:
        known = (intent.tool for intent in self.brain.intents if intent.tool and intent.tool.name == name)
        return next(known, UseTool(name))
