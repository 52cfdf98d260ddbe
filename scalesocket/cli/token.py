"""`scalesocket token [SITE]`."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from scalesocket.auth.explanation import NotATokenError, Opinion, Token, format_age, judge_token, read_token, show_value
from scalesocket.auth.identity import Identity, Role
from scalesocket.auth.jwt import is_time
from scalesocket.auth.keys import KeyFileError, KeySet, parse_keys, secret_key
from scalesocket.auth.minting import SigningKey, choose_secret, make_claims, parse_signing_key, sign
from scalesocket.cli.flags import nearest_word
from scalesocket.cli.site_file import SITE
from scalesocket.config.load import load_site
from scalesocket.config.model import App, Jwt, Site
from scalesocket.config.units import parse_duration
from scalesocket.errors import ScalesocketError

STDIN: Final = "-"
MAX_TOKEN: Final = 64 * 1024
"""Characters that are read from standard input."""


class TokenError(ScalesocketError):
    """A token cannot be made."""


def _read_duration(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if seconds < 1:
        raise click.BadParameter('a token lives for a second at least (write for example "1h")')
    return seconds


@click.command
@SITE
@click.option("--app", metavar="APP", help="The app that the token is for; needed if several have auth.jwt.")
@click.option(
    "--room", "rooms", metavar="ROOM", multiple=True, help="A room, or a pattern with *; repeat it for more. All, if missing."
)
@click.option("--user", metavar="NAME", help="The name of the user.")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    help="Repeat it for more. [default: write]",
)
@click.option("--ttl", metavar="DURATION", default="1h", show_default=True, callback=_read_duration, help="How long it is valid.")
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Sign with this private key (PEM or JWK); needed if the site file has public keys alone.",
)
@click.option(
    "--explain", "explained", metavar="TOKEN", help="Say what a token lets in, and what it lacks. - reads standard input."
)
@click.pass_context
def token(
    ctx: click.Context,
    site_file: Path,
    app: str | None,
    rooms: Sequence[str],
    user: str | None,
    roles: Sequence[str],
    ttl: float,
    key_file: Path | None,
    explained: str | None,
) -> None:
    """Make a token for an app, or explain one.

    Signs a JSON Web Token with the key of SITE (default: ./site.toml) and prints it alone. The app accepts it until it expires;
    it cannot be taken back before.

    With --explain, prints what a token says, and for each app whom it lets in, or all reasons why not; exits with 1 if no app
    accepts it. Use `--explain -`: other users of the machine see the arguments of a command. Nothing is fetched over the network.
    """
    site = load_site(site_file)
    if explained is not None:
        ctx.exit(0 if _explain(_read_argument(explained), _apps_with_jwt(ctx, site, app)) else 1)
    chosen = _choose_app(ctx, site, app)
    settings = _jwt_of(chosen)
    assert settings is not None
    signer = _find_signer(chosen, settings, key_file)
    claims = make_claims(
        settings, chosen.name, user=user, rooms=rooms, roles=[Role(name) for name in roles], now=time.time(), ttl=ttl
    )
    made = sign(claims, signer)
    _check_accepted(chosen, settings, made)
    click.echo(made)


def _jwt_of(app: App) -> Jwt | None:
    return app.auth.jwt if app.auth is not None else None


def _apps_with_jwt(ctx: click.Context, site: Site, name: str | None) -> list[App]:
    if name is not None and name not in site.apps:
        near = nearest_word(name, site.apps)
        hint = f"did you mean {near}?" if near else f"its apps: {', '.join(site.apps)}"
        raise click.UsageError(f"{site.path}: no app {name!r} ({hint})", ctx)
    found = [app for app in site.apps.values() if name in (None, app.name) and _jwt_of(app) is not None]
    if not found:
        raise TokenError(f"{f'apps.{name}' if name else site.path}: accepts no tokens (set auth.jwt)")
    return found


def _choose_app(ctx: click.Context, site: Site, name: str | None) -> App:
    found = _apps_with_jwt(ctx, site, name)
    if len(found) > 1:
        raise click.UsageError(f"several apps accept tokens (add --app {' or --app '.join(app.name for app in found)})", ctx)
    return found[0]


def _local_keys(app: App, settings: Jwt) -> KeySet | None:
    """Return the keys that verify the tokens of an app; None if the server fetches them. Raises TokenError."""
    if settings.secret is not None:
        return secret_key(settings.secret, settings.algorithms)
    if settings.keys_file is None:
        return None
    try:
        return parse_keys(settings.keys_file.read_text(), settings.algorithms)
    except (OSError, UnicodeDecodeError, KeyFileError) as error:
        raise TokenError(f"apps.{app.name}.auth.jwt.keys_file: {_reason(error)}") from error


def _find_signer(app: App, settings: Jwt, key_file: Path | None) -> SigningKey:
    if key_file is not None:
        try:
            return parse_signing_key(key_file.read_text(), settings.algorithms)
        except (OSError, UnicodeDecodeError, KeyFileError) as error:
            raise TokenError(f"{key_file}: {_reason(error)}") from error
    signer = choose_secret(_local_keys(app, settings) or ())
    if signer is None:
        raise TokenError(f"apps.{app.name}.auth.jwt: has only public keys, which sign nothing (name the private one: --key FILE)")
    return signer


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    return "cannot be read: it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _check_accepted(app: App, settings: Jwt, made: str) -> None:
    """Verify a new token as the server does. Raises TokenError if the app would refuse it."""
    keys = _local_keys(app, settings)
    if keys is None:
        return
    opinion = judge_token(read_token(made), settings, app.name, keys)
    if opinion.identity is None:
        raise TokenError(f"apps.{app.name} would refuse the token: {'; '.join(opinion.lacks)}")


def _read_argument(explained: str) -> str:
    if explained == STDIN:
        explained = sys.stdin.read(MAX_TOKEN)
    return explained.strip().removeprefix("Bearer ").strip()


def _explain(text: str, apps: Sequence[App]) -> bool:
    """Print what a token says, and what each app thinks of it; return whether one accepts it."""
    try:
        read = read_token(text)
    except NotATokenError as error:
        raise TokenError(f"the text {error}") from error
    for name, value in _describe(read):
        click.echo(f"{name:<10} {value}")
    accepted = False
    for app in apps:
        settings = _jwt_of(app)
        assert settings is not None
        opinion = judge_token(read, settings, app.name, _local_keys(app, settings))
        accepted |= opinion.identity is not None
        click.echo("\n" + "\n".join(_describe_opinion(app.name, opinion)))
    return accepted


def _describe(read: Token) -> Iterator[tuple[str, str]]:
    yield "algorithm", show_value(read.algorithm)
    for name, value in (("key", read.header.get("kid")), *read.claims.items()):
        if value is not None:
            when = f"{show_value(value)}  {_show_time(value)}" if name in ("exp", "nbf", "iat") and is_time(value) else None
            yield show_value(name), when or show_value(value)


def _describe_opinion(app: str, opinion: Opinion) -> Iterator[str]:
    if opinion.identity is not None:
        yield f"{app}: lets in {_describe_identity(opinion.identity)}"
        return
    if opinion.lacks:
        yield f"{app}: refuses it"
    else:
        yield f"{app}: not known"
    yield from (f"  - {lack}" for lack in opinion.lacks)
    if opinion.is_signature_unknown:
        yield "  - its signature was not checked: the server fetches the keys"


def _describe_identity(identity: Identity) -> str:
    who = "a guest" if identity.user is None else show_value(identity.user)
    where = "all rooms" if identity.rooms is None else f"rooms {', '.join(map(show_value, identity.rooms)) or 'none'}"
    until = "for ever" if identity.expires_at is None else f"until {_show_time(identity.expires_at)}"
    return f"{who}; {where}; roles {', '.join(identity.role_names) or 'none'}; {until}"


def _show_time(at: float) -> str:
    """Write a Unix time, and how far away it is."""
    try:
        date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    except (OverflowError, ValueError, OSError):
        return "(no date)"
    distance = at - time.time()
    return f"{date} ({f'in {format_age(distance)}' if distance > 0 else f'{format_age(-distance)} ago'})"
