"""The registry in etcd: an asyncio client over its public v3 gRPC API, and a `Store` on it.

From the pure to the outside: `config` (what KV_STORE says), `meanings` (what an error says about
the call that got it), `links` (a channel for each endpoint), `tokens` (who we
are), `client` (one call, asked until answered or out of time), `position` (how far a watch has
come), `watch`, `store`.

Nothing above the store may know that etcd exists.
"""
