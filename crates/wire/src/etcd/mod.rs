//! Conversions between the key space's requests and answers and those of etcd's client API.
