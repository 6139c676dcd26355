"""A trained pair as a server: the wire, the pair without memory, the line of requests, the page."""
