def write_snapshot(*a): return None
