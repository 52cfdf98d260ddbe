"""A whiteboard of notes and drawn lines: stores them, and broadcasts changes.

It reads one JSON object per line from stdin, each with its sender (`_from`), and writes one per line to stdout. A new client
receives the whole board (`_to`). A change goes to everyone except its author (`_except`), whose page shows it already.
Places are shares of the board's width and height, from 0 to 1.

    in   {"_event": "join", "_from": 1, "name": "Ann"}
         {"t": "Add", "_from": 1, "x": 0.4, "y": 0.3}
         {"t": "Change", "_from": 1, "id": 7, "text": "milk", "colour": "pink", "x": 0.4, "y": 0.3}     any of these fields
         {"t": "Remove", "_from": 1, "id": 7}
         {"t": "Draw", "_from": 1, "line": 3, "points": [[0.1, 0.2], …]}    further points of this client's line 3
         {"t": "Wipe", "_from": 1}                                          remove all lines
         {"t": "Point", "_from": 1, "x": 0.5, "y": 0.5}                     place of the pointer
         {"_event": "leave", "_from": 1}
    out  {"t": "Board", "_to": 1, "id": 1, "notes": […], "lines": […]}
         {"t": "People", "people": {"1": "Ann"}}
         {"t": "Note", "note": {…}}, {"t": "Removed", "id": 7}
         {"t": "Draw", "by": 1, "line": 3, "points": […]}, {"t": "Erased", "by": 1, "line": 3}, {"t": "Wiped"}
         {"t": "Point", "id": 1, "x": 0.5, "y": 0.5}
"""

import json
import sys
from urllib.parse import unquote

MAX_NOTES = 200
MAX_TEXT = 400
MAX_POINTS = 10_000  # of all lines together; the oldest line is removed for a new one
MAX_LINE = 1_000  # points of one line, and of one message
COLOURS = ("yellow", "pink", "blue", "green")


class Whiteboard:
    """The notes and lines of one room, and its people."""

    def __init__(self):
        self.notes = {}
        self.lines = {}  # (client, number) -> points
        self.people = {}
        self.next_id = 1

    def receive(self, message):
        sender = message["_from"]
        match message:
            case {"_event": "join"}:
                self.people[sender] = name_of(message)
                lines = [{"by": by, "line": line, "points": points} for (by, line), points in self.lines.items()]
                yield {"t": "Board", "_to": sender, "id": sender, "notes": list(self.notes.values()), "lines": lines}
                yield {"t": "People", "people": self.people}
            case {"_event": "leave"}:
                self.people.pop(sender, None)
                yield {"t": "People", "people": self.people}
            case _ if sender in self.people:
                yield from self.change(sender, message)

    def change(self, sender, message):
        match message:
            case {"t": "Add"} if len(self.notes) < MAX_NOTES:
                # Sent to everyone, its author too, because only the server assigns ids.
                colour = COLOURS[self.next_id % len(COLOURS)]
                note = {"id": self.next_id, "by": sender, "text": "", "colour": colour, "x": 0.4, "y": 0.3}
                self.next_id += 1
                self.notes[note["id"]] = changed(note, message)
                yield {"t": "Note", "note": note}
            case {"t": "Change", "id": int(number)} if number in self.notes:
                note = self.notes.pop(number)  # and insert it again as the last: the latest change is on top
                self.notes[number] = changed(note, message)
                yield {"t": "Note", "note": note, "_except": sender}
            case {"t": "Remove", "id": int(number)} if number in self.notes:
                yield {"t": "Removed", "id": self.notes.pop(number)["id"]}
            case {"t": "Draw", "line": int(line), "points": list(points)} if 0 <= line < 1 << 31:
                yield from self.draw(sender, int(line), points)
            case {"t": "Wipe"}:
                self.lines.clear()
                yield {"t": "Wiped"}
            case {"t": "Point", "x": x, "y": y} if is_number(x) and is_number(y):
                yield {"t": "Point", "id": sender, "x": place(x), "y": place(y), "_except": sender}

    def draw(self, sender, line, points):
        drawn = self.lines.get((sender, line), [])
        is_right = all(isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in points)
        if not points or not is_right or len(drawn) + len(points) > MAX_LINE:
            return
        points = [[place(x), place(y)] for x, y in points]
        self.lines[sender, line] = drawn + points
        yield {"t": "Draw", "by": sender, "line": line, "points": points, "_except": sender}
        while sum(map(len, self.lines.values())) > MAX_POINTS:
            by, oldest = next(iter(self.lines))
            del self.lines[by, oldest]
            yield {"t": "Erased", "by": by, "line": oldest}


def changed(note, message):
    if isinstance(message.get("text"), str):
        note["text"] = message["text"][:MAX_TEXT].encode(errors="replace").decode()  # replace lone surrogates
    if message.get("colour") in COLOURS:
        note["colour"] = message["colour"]
    for axis in ("x", "y"):
        if is_number(message.get(axis)):
            note[axis] = place(message[axis])
    return note


def is_number(value):
    return isinstance(value, (int, float)) and value == value  # NaN is not itself


def place(value):
    """A place on the board, as a share of its width or height."""
    return round(float(min(max(value, 0), 1)), 4)


def name_of(message):
    """Return the client's name, which is URL-encoded in the join message, or #QUERY_NAME if the client sent none."""
    name = message.get("name")
    name = unquote(name) if isinstance(name, str) and not name.startswith("#") else ""
    return "".join(filter(str.isprintable, name)).strip()[:24] or f"guest {message['_from']}"


def read(line):
    """Parse a line: a JSON object with its sender's id. Return None for anything else, because clients may send anything."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and type(message.get("_from")) is int else None


if __name__ == "__main__":
    board = Whiteboard()
    for line in sys.stdin.buffer:
        if message := read(line):
            for answer in board.receive(message):
                print(json.dumps(answer), flush=True)
