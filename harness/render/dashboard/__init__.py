"""The dashboard: a folder of files that opens in a browser without a server, a network or a build step."""
