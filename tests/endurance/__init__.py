"""The whole product in its real processes, under load, while parts of it are killed, hung, cut off and reloaded."""
