"""The site file: parsed into a frozen model, checked, compared and written back.

The modules, each of which imports only from those before it:

Foundations
    positions, problems             places of keys and values in a text; errors and warnings with their places
    interpolate                     `${NAME}` in strings
Values
    units, values                   durations and sizes; strings, numbers, paths, lists
    addresses, headers              network addresses; HTTP fields
    host_patterns, urls             host names; URLs that the server sends requests to
Declarations
    keys, conflicts                 what a key declares besides its type; keys that exclude each other
    rates, routing                  tables that limit a rate; how messages are passed on
    hook_settings, auth_settings    every key of `[apps.NAME.auth.hook]` and `[apps.NAME.auth]`
    admin                           the table of the admin surface
    server_settings, app_settings   every key of `[server]` and `[apps.NAME]`
    cluster_settings                every key of `[cluster]`
    model, secrets                  `Site`, and the names of its parts for other packages; masking of secret keys
Parsing
    syntax, toml_document           what is not valid TOML; a file that is
    validation_errors               messages for invalid values
    auth_lint, cluster_lint, lint   probable mistakes in valid values: of `auth`, of `[cluster]`, of all other keys
    site_file, secret_files         a file with its variables replaced; secrets in files of their own
    app_tables, parse               apps with their defaults; the whole site, with all errors at once
Machine
    command_hints, programs         programs of commands: where they are, what is wrong with them, what was meant
    validity, certificates          when a certificate ends; certificates
    machine                         all that a site needs of this machine
    load                            parsing of files on disk
Output
    render, describe                a site as TOML; a target as text
    plan                            the difference between two sites
    schema, reference               the JSON Schema; `docs/config.md`

How to add a key:

1. Declare it in `app_settings.py` or `server_settings.py`: type, class, meaning, default.
2. Run `make generate`, which writes the schema and `docs/config.md`.
3. Use it: `app.KEY` or `server.KEY`.
4. Test it: its default and class in `tests/config/test_keys.py`, an edit in `tests/key_edits.py`, and its effect.
5. Show it in `examples/options.toml`.

Tests fail if a declared key is missing in the generated files, in those two tables or in the example.
"""
