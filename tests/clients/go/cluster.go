package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func maintenance(ctx context.Context, t *tester) error {
	members, err := t.client.MemberList(ctx)
	if err != nil {
		return err
	}
	claims := []error{equal("members", len(members.Members), len(t.endpoints))}
	leaders, hashes := map[uint64]bool{}, map[uint32]bool{}
	written, err := t.put(ctx, "maintenance", "1")
	if err != nil {
		return err
	}
	for _, endpoint := range t.endpoints {
		// Every node has applied the write once it answers a linearizable read.
		alone, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: patience})
		if err != nil {
			return err
		}
		defer alone.Close()
		if _, err := alone.Get(ctx, "maintenance"); err != nil {
			return err
		}
		state, err := t.client.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		leaders[state.Leader] = true
		hash, err := t.client.HashKV(ctx, endpoint, written)
		if err != nil {
			return fmt.Errorf("hash at %s: %w", endpoint, err)
		}
		hashes[hash.Hash] = true
		claims = append(claims, equal("version", state.Version[:4], "3.7."), holds("a size", state.DbSize > 0))
		if _, err := t.client.Defragment(ctx, endpoint); err != nil {
			return err
		}
	}
	alarms, err := t.client.AlarmList(ctx)
	if err != nil {
		return err
	}
	_, unknown := t.client.MemberRemove(ctx, 1)
	claims = append(claims,
		equal("leaders", len(leaders), 1), equal("hashes", len(hashes), 1), equal("alarms", len(alarms.Alarms), 0),
		holds("no such member is ErrMemberNotFound", errors.Is(unknown, rpctypes.ErrMemberNotFound)))
	return all(claims...)
}

func snapshot(ctx context.Context, t *tester) error {
	stream, err := t.client.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	bytes, err := io.Copy(io.Discard, stream)
	if err != nil {
		return err
	}
	// The client has taken the sum of the whole from its end, and found it right.
	return holds("it has bytes", bytes > 0)
}

func auth(ctx context.Context, t *tester) error {
	if err := prepareUsers(ctx, t.client); err != nil {
		return err
	}
	root, err := t.connect("root", "root")
	if err != nil {
		return err
	}
	defer root.Close()
	claims := as(ctx, t, root)
	_, err = root.AuthDisable(ctx)
	return all(claims, err)
}

func prepareUsers(ctx context.Context, client *clientv3.Client) error {
	for name, role := range map[string]string{"root": "root", "alice": "reader"} {
		_, add := client.UserAdd(ctx, name, name)
		_, makeRole := client.RoleAdd(ctx, role)
		_, grant := client.UserGrantRole(ctx, name, role)
		if err := all(add, makeRole, grant); err != nil {
			return err
		}
	}
	kind := clientv3.PermissionType(clientv3.PermRead)
	_, grant := client.RoleGrantPermission(ctx, "reader", "auth/", clientv3.GetPrefixRangeEnd("auth/"), kind)
	_, enable := client.AuthEnable(ctx)
	return all(grant, enable)
}

func as(ctx context.Context, t *tester, root *clientv3.Client) error {
	if _, err := root.Put(ctx, "auth/a", "1"); err != nil {
		return err
	}
	alice, err := t.connect("alice", "alice")
	if err != nil {
		return err
	}
	defer alice.Close()
	_, allowed := alice.Get(ctx, "auth/a")
	_, denied := alice.Put(ctx, "auth/a", "2")
	_, elsewhere := alice.Get(ctx, "secret")
	_, nobody := t.client.Get(ctx, "auth/a")
	_, wrong := t.connect("alice", "wrong")
	watched := <-alice.Watch(ctx, "secret")
	// A change of rights outdates every token: the client logs in again by itself.
	_, granted := root.RoleGrantPermission(ctx, "reader", "auth/", clientv3.GetPrefixRangeEnd("auth/"),
		clientv3.PermissionType(clientv3.PermReadWrite))
	_, now := alice.Put(ctx, "auth/a", "2")
	_, changed := root.UserChangePassword(ctx, "alice", "other")
	_, ended := alice.Get(ctx, "auth/a")
	return all(
		allowed, granted, now, changed,
		holds("a write is ErrPermissionDenied", errors.Is(denied, rpctypes.ErrPermissionDenied)),
		holds("another key is ErrPermissionDenied", errors.Is(elsewhere, rpctypes.ErrPermissionDenied)),
		holds("a watch of it is denied", watched.Err() != nil),
		holds("nobody is ErrUserEmpty", errors.Is(nobody, rpctypes.ErrUserEmpty)),
		holds("a wrong password is ErrAuthFailed", errors.Is(wrong, rpctypes.ErrAuthFailed)),
		holds("a changed password ends the session", ended != nil),
	)
}
