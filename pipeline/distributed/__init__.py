"""The only rooms that know Ray: each a graph that reads as one page."""
