"""A whiteboard of notes: keeps them, and tells everyone what changed.

One JSON object per line on stdin, marked with its sender (`_from`); one per line on stdout. Whoever joins gets the whole
board alone (`_to`); a change goes to everyone but the one who made it (`_except`), whose page shows it already.
"""

import json
import sys
from urllib.parse import unquote

MAX_NOTES = 200
MAX_TEXT = 400
COLOURS = ("yellow", "pink", "blue", "green")


class Whiteboard:
    """The notes of one room, and who is there."""

    def __init__(self):
        self.notes = {}
        self.people = {}
        self.next_id = 1

    def receive(self, message):
        sender = message.get("_from")
        match message:
            case {"_event": "join"}:  # only the server writes _event
                self.people[sender] = unquote(str(message.get("name") or ""))[:24] or f"guest {sender}"
                yield {"t": "Board", "_to": sender, "id": sender, "notes": list(self.notes.values())}
                yield {"t": "People", "people": self.people}
            case {"_event": "leave"}:
                self.people.pop(sender, None)
                yield {"t": "People", "people": self.people}
            case {"t": "Add"} if len(self.notes) < MAX_NOTES:
                # From the server to everyone, its author too: only the server gives ids.
                colour = COLOURS[self.next_id % len(COLOURS)]
                note = {"id": self.next_id, "by": sender, "text": "", "colour": colour, "x": 0.4, "y": 0.3}
                self.next_id += 1
                self.notes[note["id"]] = change(note, message)
                yield {"t": "Note", "note": note}
            case {"t": "Change"} if note := self.notes.get(message.get("id")):
                del self.notes[note["id"]]  # and in again as the last: what was touched last lies on top
                self.notes[note["id"]] = change(note, message)
                yield {"t": "Note", "note": note, "_except": sender}
            case {"t": "Remove"} if self.notes.pop(message.get("id"), None):
                yield {"t": "Removed", "id": message["id"]}
            case {"t": "Point"}:
                yield {"t": "Point", "id": sender, "x": place(message.get("x")), "y": place(message.get("y")), "_except": sender}


def change(note, message):
    if isinstance(message.get("text"), str):
        note["text"] = message["text"][:MAX_TEXT]
    if message.get("colour") in COLOURS:
        note["colour"] = message["colour"]
    for axis in ("x", "y"):
        if axis in message:
            note[axis] = place(message[axis])
    return note


def place(value):
    """A place on the board, as a share of its width or height."""
    return round(min(max(value, 0.0), 1.0), 4) if isinstance(value, (int, float)) else 0.0


if __name__ == "__main__":
    board = Whiteboard()
    for line in sys.stdin:
        for answer in board.receive(json.loads(line)):
            print(json.dumps(answer), flush=True)
