"""`scalesocket cluster status`, `drain` and `forget`: the nodes of a cluster, through any of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from scalesocket.cli.columns import format_table, terminal_width
from scalesocket.cli.remote import CONTROL, JSON, query, to_json
from scalesocket.cli.rooms import format_seconds
from scalesocket.cli.site_file import SITE
from scalesocket.cli.targets import split_words
from scalesocket.control.messages import ClusterDrain, ClusterForget, ClusterStatus, Outcome
from scalesocket.logs import printable
from scalesocket.status import Forgotten, NodeEntry

NODE_HEAD: Final = ("NODE", "STATE", "ANSWERS", "ROOMS", "CLIENTS", "LEASE", "SEEN", "ADDRESS", "VERSION")


@click.group
def cluster() -> None:
    """Show the nodes of a cluster, drain one, or forget a dead one."""


@cluster.command("status")
@SITE
@CONTROL
@JSON
def show_nodes(site_file: Path, control: Path | None, form: str) -> None:
    """List the nodes of the cluster that the running server belongs to.

    STATE is serving, draining, or lost for a node whose lease has ended. ANSWERS says whether the node marked * reaches it; if
    not, the reason is below the table. LEASE is the time left until its lease ends, SEEN the time since it was last renewed, and
    CLIENTS those that it had then.
    """
    nodes = query(site_file, control, ClusterStatus(), list[NodeEntry])
    if form == "json":
        click.echo(to_json(nodes))
    else:
        click.echo("\n".join(format_nodes(nodes, terminal_width())))


@cluster.command("drain")
@click.argument("words", metavar="[SITE] NODE", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def drain_node(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """Close the rooms of a node gradually with 1012, so that other nodes open them.

    The node opens no rooms until it is started again. It hands clients that connect to it over to other nodes.
    """
    site_file, (node,) = split_words(ctx, words, 1)
    outcome = query(site_file, control, ClusterDrain(node=node), Outcome)
    text = f"closing {_count(outcome.rooms, 'room')} of {node} with {_count(outcome.clients, 'client')}"
    click.echo(to_json(outcome) if form == "json" else text)


@cluster.command("forget")
@click.argument("words", metavar="[SITE] NODE", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def forget_node(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """End the lease of a dead node, so that others may open its rooms at once.

    A node that answers is not forgotten. Be certain that it is dead: if it runs without a connection to this one, its rooms may
    run twice until its next renewal.
    """
    site_file, (node,) = split_words(ctx, words, 1)
    forgotten = query(site_file, control, ClusterForget(node=node), Forgotten)
    click.echo(to_json(forgotten) if form == "json" else f"forgot {node}, whose lease had {forgotten.lease:.1f} s left")


def format_nodes(nodes: Sequence[NodeEntry], width: int | None) -> Iterator[str]:
    """Yield a table of at most `width` columns (None: no limit), and a line for each node that does not answer."""
    yield from format_table(NODE_HEAD, [*map(_row, nodes)], elastic="ADDRESS", width=width)
    for node in nodes:
        if node.problem is not None:
            yield f"{printable(node.node)} does not answer: {printable(node.problem)}"


def _row(node: NodeEntry) -> list[str]:
    return [
        f"{printable(node.node)}{'*' if node.is_here else ''}",
        node.state,
        "yes" if node.answers else "no",
        str(node.rooms),
        str(node.clients),
        f"{node.lease:.1f}s" if node.lease else "-",
        format_seconds(node.last_seen),
        printable(node.address),
        printable(node.version),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
