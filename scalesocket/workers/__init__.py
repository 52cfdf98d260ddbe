"""Several processes that serve one site: the supervisor process, and the workers that it starts.

`link` carries messages between the supervisor and one worker. `supervisor` is the main of the supervisor process, and `process`
starts, watches and replaces one worker. `worker` is the main of a worker process.
"""
