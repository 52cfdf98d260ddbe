"""Which app a URL belongs to, on the site as it is now."""

from scalesocket.admission import root_app
from scalesocket.config.model import App, Site


def split_mount(site: Site, path: str) -> tuple[App, str] | None:
    """Find the app a path belongs to, and the rest of the path below its mount (empty for the mount itself).

    `path` begins with `/` and may still be percent-encoded: names of apps need no encoding. An app's own mount wins over
    the app at the root. None when no app is there.
    """
    name, slash, rest = path[1:].partition("/")
    app = site.apps.get(name)
    if app is not None and app.mount != "/":
        return app, slash + rest
    root = root_app(site)
    return None if root is None else (root, path)
