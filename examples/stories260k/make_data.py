#!/usr/bin/env python3
"""Writes the data of this example: sft.jsonl from a plain text of stories, and openings to continue.

usage: make_data.py STORIES.txt OUTPUT_DIRECTORY
"""

import json
import pathlib
import sys

NAMES = ["Lily", "Tom", "Ben", "Mia", "Sam", "Anna", "Max", "Sue", "Tim", "Lucy", "Jack", "Amy"]
OPENINGS = [
    "Once upon a time, there was a little {kind} named {name}.",
    "One day, {name} went to the park.",
    "{name} had a big red ball.",
    "{name} was a {kind} who liked to play outside.",
    "One day, {name} and mom went for a walk.",
    "Once there was a {kind} called {name}. {name} had a small dog.",
    "{name} saw a cat in the garden.",
    "It was a sunny day. {name} wanted to go to the beach.",
    "{name} found a box in the house.",
    "Once upon a time, {name} was very sad.",
    "{name} and a friend made a cake.",
    "One night, {name} could not sleep.",
]


def main():
    text = pathlib.Path(sys.argv[1]).read_text()
    output = pathlib.Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    stories = [part.strip() for part in text.replace("<|endoftext|>", "\n\n").split("\n\n") if part.strip()]
    with open(output / "sft.jsonl", "w") as file:
        for story in stories:
            file.write(json.dumps({"text": story}) + "\n")
    rows = []
    for i, opening in enumerate(OPENINGS):
        for j, name in enumerate(NAMES):
            kind = ["girl", "boy", "bird", "bear"][(i + j) % 4]
            rows.append({"prompt": opening.format(name=name, kind=kind), "answer": "", "capability": f"opening {i}"})
    held_out = [row for i, row in enumerate(rows) if i % 6 == 5]
    with open(output / "test.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in held_out)
    with open(output / "train.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for i, row in enumerate(rows) if i % 6 != 5)


main()
