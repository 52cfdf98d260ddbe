"""A cluster of nodes: one directory says which node has which room. Imported only for sites with `[cluster]`.

The modules, each of which imports only from those before it:

    records             what the directory knows, as data
    scripts             the Lua scripts of the directory: all of its rules
    replies             bounds on what the engine answers
    link                a connection to the engine (Redis or Valkey), shared by many requests
    sentinel            which of several engines is the primary
    engine              the connection, opened again after it broke
    requests            scripts with the arguments that all have in common
    listing             what is known of all nodes: their loads, their rooms, tickets
    audit               rooms in the directory that are not open here, and the other way round
    last_word           the bytes that end the session of a node that has died
    directory           the session of this node, and its claims of rooms
    lease               the lease of this node: renewed, given up in time, opened again
    preamble            what two nodes send each other first: pure
    handed              the payload of a hand-over
    keep_alive          options of the sockets between nodes
    sparse_log          warnings about other nodes, each once a minute
    secured             TLS between nodes
    channels            a connection to another node, with TLS or without
    arrivals            a connection of another node, from its first byte to its answer
    peers               the listener for other nodes
    peer_client         hands connections over to other nodes, and passes requests on
    remote              the node that owns a room, as an owner (placement/placement.py)
    handed_streams      clients that other nodes have taken, cut when their owner is lost
    claims              the rooms that this node may open
    requests_of_nodes   what nodes ask each other, besides handing clients over
    choice              which node a new room opens on
    placement           where a room lives; clients wait there for an owner
"""
