package main

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func leases(ctx context.Context, t *tester) error {
	granted, err := t.client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	if _, err := t.put(ctx, "lease/a", "1", clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	kept, cancel := context.WithCancel(ctx)
	defer cancel()
	alive, err := t.client.KeepAlive(kept, granted.ID)
	if err != nil {
		return err
	}
	answer := <-alive
	cancel()
	once, err := t.client.KeepAliveOnce(ctx, granted.ID)
	if err != nil {
		return err
	}
	left, err := t.client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	listed, err := t.client.Leases(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, lease := range listed.Leases {
		found = found || lease.ID == granted.ID
	}
	if _, err := t.client.Revoke(ctx, granted.ID); err != nil {
		return err
	}
	gone, err := t.client.Get(ctx, "lease/a")
	if err != nil {
		return err
	}
	_, unknown := t.client.Revoke(ctx, granted.ID)
	_, attach := t.put(ctx, "lease/a", "2", clientv3.WithLease(granted.ID))
	_, twice := t.client.KeepAliveOnce(ctx, granted.ID)
	after, err := t.client.TimeToLive(ctx, granted.ID)
	if err != nil {
		return err
	}
	return all(
		equal("time to live of a keepalive", answer.TTL, 60),
		equal("time to live of one keepalive", once.TTL, 60),
		equal("keys", fmt.Sprintf("%s", left.Keys), "[lease/a]"),
		equal("granted", left.GrantedTTL, 60),
		holds("it is listed", found),
		equal("keys after the revoke", gone.Count, 0),
		holds("a second revoke is ErrLeaseNotFound", errors.Is(unknown, rpctypes.ErrLeaseNotFound)),
		holds("a put with it is ErrLeaseNotFound", errors.Is(attach, rpctypes.ErrLeaseNotFound)),
		holds("a keepalive of it is ErrLeaseNotFound", errors.Is(twice, rpctypes.ErrLeaseNotFound)),
		equal("time to live afterwards", after.TTL, -1),
	)
}

func expiry(ctx context.Context, t *tester) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	granted, err := t.client.Grant(ctx, 1)
	if err != nil {
		return err
	}
	written, err := t.put(ctx, "expiry", "1", clientv3.WithLease(granted.ID))
	if err != nil {
		return err
	}
	seen, err := take(t.client.Watch(ctx, "expiry", clientv3.WithRev(written+1)), 1)
	if err != nil {
		return err
	}
	return equal("what happens", seen[0], "DELETE expiry=")
}

func mutex(ctx context.Context, t *tester) error {
	var sessions [2]*concurrency.Session
	var mutexes [2]*concurrency.Mutex
	for n := range sessions {
		session, err := concurrency.NewSession(t.client, concurrency.WithTTL(30))
		if err != nil {
			return err
		}
		defer session.Close()
		sessions[n], mutexes[n] = session, concurrency.NewMutex(session, "mutex/")
	}
	if err := mutexes[0].Lock(ctx); err != nil {
		return err
	}
	refused := mutexes[1].TryLock(ctx)
	locked := make(chan error)
	go func() { locked <- mutexes[1].Lock(ctx) }()
	owned, err := t.client.Txn(ctx).If(mutexes[0].IsOwner()).Commit()
	if err != nil {
		return err
	}
	if err := sessions[0].Close(); err != nil {
		return err
	}
	freed := <-locked
	stale, err := t.client.Txn(ctx).If(mutexes[0].IsOwner()).Commit()
	if err != nil {
		return err
	}
	return all(
		holds("the second try is ErrLocked", errors.Is(refused, concurrency.ErrLocked)),
		holds("the first owns it", owned.Succeeded),
		freed,
		holds("the first owns it no more", !stale.Succeeded),
		mutexes[1].Unlock(ctx),
	)
}

func election(ctx context.Context, t *tester) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var elections [2]*concurrency.Election
	for n := range elections {
		session, err := concurrency.NewSession(t.client, concurrency.WithTTL(30))
		if err != nil {
			return err
		}
		defer session.Close()
		elections[n] = concurrency.NewElection(session, "election")
	}
	if err := elections[0].Campaign(ctx, "first"); err != nil {
		return err
	}
	observed := elections[1].Observe(ctx)
	before := string((<-observed).Kvs[0].Value)
	won := make(chan error)
	go func() { won <- elections[1].Campaign(ctx, "second") }()
	if err := elections[0].Proclaim(ctx, "still first"); err != nil {
		return err
	}
	proclaimed := string((<-observed).Kvs[0].Value)
	if err := elections[0].Resign(ctx); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	after := string((<-observed).Kvs[0].Value)
	leader, err := elections[0].Leader(ctx)
	if err != nil {
		return err
	}
	return all(
		equal("first leader", before, "first"),
		equal("what it proclaims", proclaimed, "still first"),
		equal("next leader", after, "second"),
		equal("leader", string(leader.Kvs[0].Value), "second"),
		elections[1].Resign(ctx),
	)
}
