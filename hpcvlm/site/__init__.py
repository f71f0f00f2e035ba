"""The site: what is particular to one cluster, from its file and from sinfo."""
