def write_results(suite, records, out):
    return []
