"""Networks behind HTTP: models, batches of concurrent requests, routes, metrics. It needs the extra
`serve`.
"""
