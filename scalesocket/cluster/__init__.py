"""A cluster of nodes: one directory says which node has which room. Imported only for sites with `[cluster]`.

The modules, each of which imports only from those before it:

    records             what the directory knows, as data
    scripts             the Lua scripts of the directory: all of its rules
    engine              one connection to the engine (Redis or Valkey), shared by many requests
    answers             what the scripts return, as records
    audit               rooms in the directory that are not open here, and the other way round
    directory           sessions of nodes, claims of rooms, summaries, tickets
    lease               the lease of this node: renewed, given up in time, opened again
"""
