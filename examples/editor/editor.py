"""The server of a text that several people edit at once: stores the text and puts all edits in one order.

The rule is compare-and-swap. An edit names the version of the text it applies to. If that is the current version, the edit
is applied and broadcast. If it is an older one, the edit is ignored: its page will receive the newer edits, rebase its
own and send it again. So all pages apply the same edits in the same order, and end with the same text.

    in   {"_event": "join", "_from": 1, "name": "Ann"}
         {"t": "Edit", "_from": 1, "version": 7, "at": 12, "cut": 2, "put": "and"}   in Unicode code points
         {"t": "Line", "_from": 1, "line": 3}                                        line of the caret
         {"_event": "leave", "_from": 1}
    out  {"t": "Text", "_to": 1, "id": 1, "version": 7, "text": "…"}
         {"t": "Edit", "by": 1, "version": 8, "at": 12, "cut": 2, "put": "and"}
         {"t": "People", "people": {"1": {"name": "Ann", "line": 3}}}
"""

import json
import sys
from urllib.parse import unquote

MAX_TEXT = 200_000  # characters
WELCOME = """# Write together

Everyone in this room edits this text at the same time.
Open the page in a second window and try.
"""


class Editor:
    """The text of one room, and its people."""

    def __init__(self):
        self.text = WELCOME
        self.version = 0
        self.people = {}

    def receive(self, message):
        sender = message["_from"]
        match message:
            case {"_event": "join"}:
                self.people[sender] = {"name": name_of(message), "line": 1}
                yield {"t": "Text", "_to": sender, "id": sender, "version": self.version, "text": self.text}
                yield {"t": "People", "people": self.people}
            case {"_event": "leave"}:
                self.people.pop(sender, None)
                yield {"t": "People", "people": self.people}
            case {"t": "Line", "line": int(line)} if sender in self.people and 0 < line <= MAX_TEXT:
                self.people[sender]["line"] = int(line)
                yield {"t": "People", "people": self.people}
            case {"t": "Edit", "version": self.version, "at": int(at), "cut": int(cut), "put": str(put)} if sender in self.people:
                put = put.encode(errors="replace").decode()  # replace lone surrogates, which would stay in the text
                fits = 0 <= at <= at + cut <= len(self.text) and len(self.text) - cut + len(put) <= MAX_TEXT
                if not fits:
                    # The page has another text, or the text would grow too long: send it the text again.
                    yield {"t": "Text", "_to": sender, "id": sender, "version": self.version, "text": self.text}
                    return
                self.text = self.text[:at] + put + self.text[at + cut :]
                self.version += 1
                yield {"t": "Edit", "by": sender, "version": self.version, "at": int(at), "cut": int(cut), "put": put}


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
    editor = Editor()
    for line in sys.stdin.buffer:
        if message := read(line):
            for answer in editor.receive(message):
                print(json.dumps(answer), flush=True)
