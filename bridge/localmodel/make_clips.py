"""Writes `clips/`: every sentence of the packaged front desk as G.711 mu-law at 8 kHz, for machines without a voice.

`python -m bridge.localmodel.make_clips`, with the extra `local`; the result is kept with the sources. Run it again
when a sentence of `frontdesk` changes.
"""

from __future__ import annotations

from bridge.audio.formats import MULAW_8K
from bridge.localmodel.brain import Brain
from bridge.localmodel.speech import CLIPS, EspeakVoice, encode, plain, sentences

VOICE = "marin"
UNKNOWN = "I have no voice for this sentence. Install the extra named local to hear me say anything."


def sentences_of(brain: Brain) -> list[str]:
    """Each sentence once: greeting, confirmations, answers, excuses."""
    texts = [brain.greeting, brain.sorry, brain.still_there, *brain.fallback, *(text for _, text in brain.prompts)]
    for intent in brain.intents:
        confirm = brain.confirm if intent.confirm is None else intent.confirm
        if confirm and intent.about:
            texts.append(confirm.format(about=intent.about, phrase="", name=intent.name))
        texts.extend((intent.before, *intent.answers))
    return list(dict.fromkeys(sentence for text in texts for sentence in sentences(text)))


def main() -> None:
    voice = EspeakVoice()
    CLIPS.mkdir(exist_ok=True)
    for old in CLIPS.glob("*.ulaw"):
        old.unlink()
    index = []
    for text in [UNKNOWN, *sentences_of(Brain.default())]:
        name = "unknown" if text == UNKNOWN else "-".join(plain(text).replace("'", "").split()[:8])
        utterance = voice.say(text, voice=VOICE)
        (CLIPS / f"{name}.ulaw").write_bytes(encode(utterance.pcm, MULAW_8K))
        index.append(f"{name}\t{text}\n")
    (CLIPS / "index.txt").write_text("".join(index), "utf-8")


if __name__ == "__main__":
    main()
