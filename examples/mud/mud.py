"""A tiny text adventure that listens on TCP, one hero per connection. To play without scalesocket: `nc 127.0.0.1 4000`.

It is an example of any existing TCP server, without websockets, JSON or rooms. Behind scalesocket each room is one
connection, so everyone in a room guides one hero, and all heroes share one world. The join message of the site file sends
`hero ROOM`, which names the hero.

    python3 mud.py [HOST:]PORT      default 127.0.0.1:4000, or $PORT when it is set
"""

import asyncio
import os
import sys
from dataclasses import dataclass

HELP = "look, north, south, east, west, take THING, drop THING, inventory, say WORDS, who, help"
SHORT = {"l": "look", "n": "north", "s": "south", "e": "east", "w": "west", "i": "inventory", "?": "help"}
MAX_LINE = 400  # characters of one command; the rest is cut
MAX_READ = 4 << 20  # bytes of one line, more than a client of the site can send
MAX_UNSENT = 1 << 20  # bytes for a connection that does not read; beyond that it misses news of other heroes


@dataclass
class Place:
    title: str
    text: str
    ways: dict[str, str]
    things: list[str]


# Name, title, text, ways, things.
PLACES = (
    (
        "gate",
        "The Gate",
        "A stone arch, warm from the sun. Wind carries the sound of water.",
        "north court, east quay",
        "lantern",
    ),
    ("court", "The Court", "Four doors and a dry fountain.", "south gate, north tower, east garden, west cellar", ""),
    ("tower", "The Tower", "From up here you see every path of this small world.", "south court", "brass key"),
    ("garden", "The Garden", "Bees, tall grass, and a tree that leans to the wall.", "west court, south quay", "apple"),
    ("quay", "The Quay", "Planks, ropes, and a boat that goes nowhere today.", "west gate, north garden", "rope"),
    ("cellar", "The Cellar", "Cool and dark. Something drips, evenly, like a clock.", "east court", "old coin"),
)


def new_world():
    return {
        name: Place(title, text, dict(way.split() for way in ways.split(", ")), [things] if things else [])
        for name, title, text, ways, things in PLACES
    }


class Hero:
    """One connection: a name, a place, and the things it carries."""

    def __init__(self, world, writer):
        self.world = world
        self.writer = writer
        self.name = None
        self.place = "gate"
        self.things = []

    def __str__(self):
        return f"the hero of {self.name}" if self.name else "a stranger"

    def send(self, text):
        if self.writer.transport.get_write_buffer_size() < MAX_UNSENT:
            self.writer.write(text[:1].upper().encode() + text[1:].encode() + b"\n")

    def send_others(self, text):
        for hero in self.world.heroes:
            if hero is not self and hero.place == self.place:
                hero.send(text)

    def obey(self, line):
        word, _, rest = line.strip().partition(" ")
        word = SHORT.get(word.lower(), word.lower())
        command = COMMANDS.get(word)
        if word in ("north", "south", "east", "west"):
            self.go(word)
        elif command:
            command(self, rest.strip())
        elif word:
            self.send(f"You do not know how to {word}. Try: {HELP}")

    def take_name(self, name):
        # Each client that joins the room sends this: the first one names the hero, later ones look around.
        if self.name is None and name:
            self.name = name[:40]
            self.send(f"Welcome, hero of {self.name}. You can: {HELP}")
            self.send_others(f"{self} steps out of the mist.")
        self.look("")

    def look(self, _):
        place = self.world.places[self.place]
        self.send(f"== {place.title} == {place.text}")
        if place.things:
            self.send("You see: " + ", ".join(place.things))
        others = [str(hero) for hero in self.world.heroes if hero is not self and hero.place == self.place]
        if others:
            self.send("Here too: " + ", ".join(others))
        self.send("Ways: " + ", ".join(place.ways))

    def go(self, way):
        target = self.world.places[self.place].ways.get(way)
        if target is None:
            self.send(f"There is no way {way}.")
            return
        self.send_others(f"{self} goes {way}.")
        self.place = target
        self.send_others(f"{self} arrives.")
        self.look("")

    def take(self, thing):
        self.carry(thing, self.world.places[self.place].things, self.things, "take")

    def drop(self, thing):
        self.carry(thing, self.things, self.world.places[self.place].things, "drop")

    def carry(self, thing, source, target, verb):
        thing = thing.lower().removeprefix("the ")
        if thing not in source:
            self.send(f"There is no {thing or 'such thing'} to {verb}.")
            return
        source.remove(thing)
        target.append(thing)
        self.send(f"You {verb} the {thing}.")
        self.send_others(f"{self} {verb}s the {thing}.")

    def inventory(self, _):
        self.send("You carry: " + (", ".join(self.things) or "nothing"))

    def say(self, words):
        self.send(f'You say: "{words}"')
        self.send_others(f'{self} says: "{words}"')

    def who(self, _):
        self.send("Heroes: " + ", ".join(sorted(hero.name or str(hero) for hero in self.world.heroes)))

    def help(self, _):
        self.send(f"You can: {HELP}")


COMMANDS = {
    "hero": Hero.take_name,
    "look": Hero.look,
    "take": Hero.take,
    "drop": Hero.drop,
    "inventory": Hero.inventory,
    "say": Hero.say,
    "who": Hero.who,
    "help": Hero.help,
}


class World:
    """The places, and the heroes in them."""

    def __init__(self):
        self.places = new_world()
        self.heroes = []

    async def serve(self, reader, writer):
        hero = Hero(self, writer)
        self.heroes.append(hero)
        try:
            while line := await reader.readline():
                # Remove control characters: the text of one hero is shown on the terminals of others.
                hero.obey("".join(filter(str.isprintable, line.decode(errors="replace")[:MAX_LINE])))
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the peer has disconnected, or sent a line without an end
        finally:
            self.heroes.remove(hero)
            self.places[hero.place].things += hero.things
            hero.send_others(f"{hero} fades into the mist.")
            writer.close()


async def main(address):
    host, _, port = address.rpartition(":")
    server = await asyncio.start_server(World().serve, host or "127.0.0.1", int(port), limit=MAX_READ)
    listening = server.sockets[0].getsockname()
    print(f"mud: listening on {listening[0]}:{listening[1]}", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "4000")))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"mud: {error.strerror or error}")
