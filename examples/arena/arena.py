"""Arena, a game for everyone in the room: collect stars, and dash into other players to take one of theirs.

This program is the complete game server and contains no network code. It reads one JSON object per line from stdin, each
with the id of its sender (`_from`), and writes one JSON object per line to stdout, for everyone or for the clients in
`_to`. It needs only the Python standard library.

    in   {"_event": "join", "_from": 1, "name": "Ann"}   the join message of the site file
         {"t": "Steer", "_from": 1, "x": 1, "y": 0}   accelerate in this direction; length at most 1
         {"t": "Dash", "_from": 1}
         {"_event": "leave", "_from": 1}
    out  {"t": "Welcome", "_to": 1, "id": 1, "width": 1600, "height": 900, "goal": 15}
         {"t": "Names", "names": {"1": "Ann"}}        after each join and leave
         {"t": "State", "n": 7, "players": [[id, x, y, stars, is_dashing], …], "stars": [[x, y], …]}
         {"t": "Won", "id": 1}                        the next round starts at once
"""

import json
import math
import os
import random
import select
import sys
import time
from urllib.parse import unquote

TICK = 1 / 30  # seconds
WIDTH, HEIGHT = 1600, 900
RADIUS = 26
STAR_RADIUS = 12
STARS = 12
GOAL = 15  # stars that win a round
PULL = 1500.0  # acceleration by the player, units per second²
DRAG = 3.2  # share of its speed that a player loses per second
DASH = 620.0  # units per second, added at once
DASH_TIME = 0.28  # seconds in which a dash takes stars
DASH_REST = 1.1  # seconds between two dashes


class Player:
    """A disc that its player accelerates; it slides, and bounces off walls and other discs."""

    def __init__(self, name):
        self.name = name
        self.x, self.y = random.uniform(RADIUS, WIDTH - RADIUS), random.uniform(RADIUS, HEIGHT - RADIUS)
        self.vx = self.vy = 0.0
        self.pull = self.heading = (0.0, 0.0)  # the heading stays when the pull ends; it is the direction of a dash
        self.stars = 0
        self.dashed_at = -DASH_REST

    def steer(self, x, y):
        length = max(1.0, math.hypot(x, y))
        self.pull = (x / length, y / length)
        if x or y:
            self.heading = self.pull

    def dash(self, now):
        x, y = self.heading
        if now - self.dashed_at >= DASH_REST and (x or y):
            self.dashed_at = now
            self.vx += x * DASH
            self.vy += y * DASH

    def is_dashing(self, now):
        return now - self.dashed_at < DASH_TIME

    def move(self, seconds):
        slow = math.exp(-DRAG * seconds)
        self.vx = self.vx * slow + self.pull[0] * PULL * seconds
        self.vy = self.vy * slow + self.pull[1] * PULL * seconds
        self.x, self.vx = bounce(self.x + self.vx * seconds, self.vx, WIDTH)
        self.y, self.vy = bounce(self.y + self.vy * seconds, self.vy, HEIGHT)


def bounce(place, speed, size):
    """Keep `place` between two walls; a wall reverses `speed` and reduces it."""
    if place < RADIUS:
        return RADIUS, abs(speed) * 0.6
    if place > size - RADIUS:
        return size - RADIUS, -abs(speed) * 0.6
    return place, speed


class Arena:
    """The rules of the game: `receive` and `tick` yield the messages to send."""

    def __init__(self):
        self.players = {}
        self.stars = [self.new_star() for _ in range(STARS)]
        self.ticks = 0

    @property
    def now(self):
        return self.ticks * TICK

    @staticmethod
    def new_star():
        edge = 2 * RADIUS
        return random.uniform(edge, WIDTH - edge), random.uniform(edge, HEIGHT - edge)

    def receive(self, message):
        sender = message["_from"]
        player = self.players.get(sender)
        match message:
            case {"_event": "join"}:
                self.players[sender] = Player(name_of(message))
                yield {"t": "Welcome", "_to": sender, "id": sender, "width": WIDTH, "height": HEIGHT, "goal": GOAL}
                yield self.names()
            case {"_event": "leave"} if player:
                del self.players[sender]
                yield self.names()
            case {"t": "Steer", "x": int() | float() as x, "y": int() | float() as y} if player:
                if abs(x) <= 1 and abs(y) <= 1:  # false for NaN, too
                    player.steer(x, y)
            case {"t": "Dash"} if player:
                player.dash(self.now)

    def tick(self):
        self.ticks += 1
        players = list(self.players.items())
        for _, player in players:
            player.move(TICK)
        for number, (_, player) in enumerate(players):
            for _, other in players[number + 1 :]:
                self.bump(player, other)
        for client, player in players:
            self.gather(player)
            if player.stars >= GOAL:
                yield {"t": "Won", "id": client}
                for _, each in players:
                    each.stars = 0
                break
        yield self.state()

    def bump(self, one, two):
        """Push two touching discs apart and exchange their speed; a dashing one takes a star."""
        dx, dy = two.x - one.x, two.y - one.y
        distance = math.hypot(dx, dy) or 1.0
        if distance >= 2 * RADIUS:
            return
        dx, dy = dx / distance, dy / distance
        gap = (2 * RADIUS - distance) / 2
        one.x, one.y = one.x - dx * gap, one.y - dy * gap
        two.x, two.y = two.x + dx * gap, two.y + dy * gap
        closing = (one.vx - two.vx) * dx + (one.vy - two.vy) * dy
        if closing <= 0:
            return
        one.vx, one.vy = one.vx - closing * dx, one.vy - closing * dy
        two.vx, two.vy = two.vx + closing * dx, two.vy + closing * dy
        for thief, victim in ((one, two), (two, one)):
            if thief.is_dashing(self.now) and not victim.is_dashing(self.now) and victim.stars:
                victim.stars -= 1
                thief.stars += 1
                thief.dashed_at = self.now - DASH_TIME  # one star per dash

    def gather(self, player):
        for number, (x, y) in enumerate(self.stars):
            if math.hypot(player.x - x, player.y - y) < RADIUS + STAR_RADIUS:
                player.stars += 1
                self.stars[number] = self.new_star()

    def names(self):
        return {"t": "Names", "names": {client: player.name for client, player in self.players.items()}}

    def state(self):
        return {
            "t": "State",
            "n": self.ticks,
            "players": [
                [client, round(player.x), round(player.y), player.stars, int(player.is_dashing(self.now))]
                for client, player in self.players.items()
            ],
            "stars": [[round(x), round(y)] for x, y in self.stars],
        }


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


def write(messages):
    text = "".join(json.dumps(message, separators=(",", ":")) + "\n" for message in messages)
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def play():
    """Read messages and tick 30 times per second, until stdin ends."""
    arena = Arena()
    unread = b""
    next_tick = time.monotonic()
    while True:
        # A room without players waits for input and uses no CPU.
        wait = max(0.0, next_tick - time.monotonic()) if arena.players else None
        if select.select([0], [], [], wait)[0]:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                if message := read(line):
                    write(arena.receive(message))
        now = time.monotonic()
        if now >= next_tick:
            write(arena.tick())
            next_tick = max(next_tick + TICK, now)


if __name__ == "__main__":
    play()
