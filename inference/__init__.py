"""The worker: engines that turn tokens into tokens, and the role that lends them to the swarm."""
