"""Pairs of sentences that differ in whether they are grammatical, in the manner of BLIMP (arXiv:1912.00582).

    python studies/minimal_pairs/make.py      # writes pairs.jsonl beside it, which the harness reads

Twelve phenomena, 100 pairs each, out of templates and plain words of an encyclopaedia that were written for
this project. Both sentences of a pair have the same words but one, or the same words in another order, and
what decides is often not the neighbour of the word that differs.
"""

import json
import random
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from diffusion.cli.files import write_text
from diffusion.errors import run

EACH = 100  # pairs of a phenomenon

MEN = ["king", "father", "brother", "actor", "prince"]
WOMEN = ["queen", "mother", "sister", "actress", "princess"]
PEOPLE = ["soldier", "writer", "player", "student", "doctor",
          "teacher", "singer", "member", "artist"]  # fmt: skip
THINGS = ["house", "bridge", "castle", "ship", "road", "tower",
          "church", "garden", "school", "river"]  # fmt: skip
WORKS = ["book", "song", "film", "album", "letter", "novel", "game", "story", "poem", "play"]
PLACES = ["town", "city", "village", "island", "valley", "state", "county", "park"]
ADJECTIVES = ["old", "small", "new", "large", "famous", "young"]
ROLES = ["older than the others", "known in the whole country", "very large at that time",
         "important to the state", "not as good as before", "different from the first one"]  # fmt: skip
# past, participle
VERBS = [("wrote", "written"), ("saw", "seen"), ("took", "taken"), ("gave", "given"),
         ("knew", "known"), ("chose", "chosen"), ("began", "begun"), ("stole", "stolen")]  # fmt: skip
TRANSITIVE = ["captured", "built", "destroyed", "visited", "described", "defended"]
INTRANSITIVE = ["arrived", "existed", "fell", "died", "slept", "appeared"]


# Name -> templates of a right sentence and a wrong one, and the words of their slots; ``{noun_s}`` is the
# plural of the slot ``noun``.
PHENOMENA: dict[str, list[tuple[str, str, dict[str, list]]]] = {
    "subject_verb_agreement": [
        (f"The {{{noun}}} of the {{{other}}} {right} {{role}}.",
         f"The {{{noun}}} of the {{{other}}} {wrong} {{role}}.",
         {"noun": THINGS + PEOPLE, "place": PLACES, "role": ROLES})
        for noun, other, right, wrong in (("noun", "place_s", "was", "were"),
                                          ("noun_s", "place", "were", "was"))
    ],
    "agreement_over_a_clause": [
        (f"The {{{noun}}} who made the {{{work}}} {right} {{role}}.",
         f"The {{{noun}}} who made the {{{work}}} {wrong} {{role}}.",
         {"noun": PEOPLE, "work": WORKS, "role": ROLES[1:4]})
        for noun, work, right, wrong in (("noun", "work_s", "was", "were"),
                                         ("noun_s", "work", "were", "was"))
    ],
    "determiner_noun_agreement": [
        (f"{{start}} {right} {{{noun}}}.", f"{{start}} {wrong} {{{noun}}}.",
         {"start": ["He wrote about", "They had never seen", "She lived near", "Nobody knew"],
          "noun": THINGS + PLACES})
        for noun, right, wrong in (("noun", "this", "these"), ("noun", "that", "those"),
                                   ("noun_s", "these", "this"), ("noun_s", "those", "that"))
    ],
    "noun_after_a_quantifier": [
        (f"He remembered {which} {{adjective}} {{{right}}}.",
         f"He remembered {which} {{adjective}} {{{wrong}}}.",
         {"noun": THINGS + WORKS, "adjective": ADJECTIVES[:5]})
        for which, right, wrong in (("every", "noun", "noun_s"), ("many", "noun_s", "noun"))
    ],
    "reflexive_gender": [
        (f"The {{noun}} {{verb}} {right} {{when}}.", f"The {{noun}} {{verb}} {wrong} {{when}}.",
         {"noun": nouns, "verb": ["saw", "taught", "blamed", "called", "found", "defended"],
          "when": ["in the end", "for many years", "after the war", "in the book"]})
        for nouns, right, wrong in ((MEN, "himself", "herself"), (WOMEN, "herself", "himself"))
    ],
    "reflexive_number": [
        ("The {noun_s} of the {place} {verb} themselves.", "The {noun_s} of the {place} {verb} himself.",
         {"noun": PEOPLE, "verb": ["saw", "taught", "blamed", "called", "defended"], "place": PLACES[:4]})
    ],
    "past_and_participle": [
        ("The {noun} had {verb[1]} the {thing}.", "The {noun} had {verb[0]} the {thing}.",
         {"verb": VERBS, "noun": PEOPLE, "thing": WORKS}),
        ("The {noun} {verb[0]} the {thing}.", "The {noun} {verb[1]} the {thing}.",
         {"verb": VERBS, "noun": PEOPLE, "thing": WORKS}),
    ],
    "passive_participle": [
        ("The {thing} was {verb[1]} by the {noun}.", "The {thing} was {verb[0]} by the {noun}.",
         {"verb": VERBS, "noun": PEOPLE, "thing": WORKS})
    ],
    "transitivity": [
        ("The {noun_s} {right} the {thing}.", "The {noun_s} {wrong} the {thing}.",
         {"noun": PEOPLE, "right": TRANSITIVE, "wrong": INTRANSITIVE, "thing": THINGS + PLACES})
    ],
    "negative_polarity": [
        ("No {noun} has ever {end}.", "The {noun} has ever {end}.",
         {"noun": PEOPLE + THINGS[:3] + MEN + WOMEN,
          "end": ["been to the island", "seen such a thing", "heard of the war", "been that large",
                  "come back"]})
    ],
    "existential_there": [
        (f"There was {right} {{noun}} in the {{place}}.", f"There was {wrong} {{noun}} in the {{place}}.",
         {"noun": THINGS, "place": PLACES})
        for right, wrong in (("a", "each"), ("no", "every"), ("another", "every"))
    ],
    "adjective_noun_order": [
        ("The {adjective} {noun} stood near the {place}.", "The {noun} {adjective} stood near the {place}.",
         {"adjective": ADJECTIVES, "noun": THINGS, "place": PLACES})
    ],
}  # fmt: skip


def many(noun: str) -> str:
    """The plural."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "s", "x")) else "s")


def sentences(right: str, wrong: str, slots: dict[str, list]) -> Iterator[tuple[str, str]]:
    """All pairs that two templates give."""
    for values in product(*slots.values()):
        words = dict(zip(slots, values, strict=True))
        words |= {f"{name}_s": many(word) for name, word in words.items() if isinstance(word, str)}
        yield right.format(**words), wrong.format(**words)


def pairs() -> list[dict]:
    """All of them: ``EACH`` of a phenomenon, drawn from what its templates give."""
    found = []
    for name, templates in PHENOMENA.items():
        every = {pair for template in templates for pair in sentences(*template)}
        drawn = random.Random(name).sample(sorted(every), EACH)
        found += [
            {"phenomenon": name, "sentence_good": good, "sentence_bad": bad} for good, bad in drawn
        ]
    return found


def main() -> None:
    target = Path(__file__).with_name("pairs.jsonl")
    write_text(target, "".join(json.dumps(pair) + "\n" for pair in pairs()))
    print(f"saved {target}")


if __name__ == "__main__":
    run(main)
