// The official Go client against a running Quorate of three nodes: a list of facts, one line each.
//
// Started by `cargo xtask clients`, which tells the endpoints in ENDPOINTS and, asked by a line on standard output, kills a
// node and starts it again.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Longest wait for anything; far more than it takes on a busy machine.
const patience = 60 * time.Second

type fact struct {
	name  string
	check func(ctx context.Context, t *tester) error
}

// tester has what the facts share.
type tester struct {
	client    *clientv3.Client
	endpoints []string
	answers   *bufio.Reader
}

// Every fact has keys of its own, so that none depends on another; those at the end change the cluster for all others.
var facts = []fact{
	{"keys are put, read by prefix, page and revision, and deleted", keys},
	{"a transaction compares and takes one of its branches", transactions},
	{"a compacted revision is refused with the client's own error", compaction},
	{"a watch tells changes in order, from the past, filtered", watches},
	{"a watch of a compacted revision is canceled with it", compactedWatch},
	{"progress is told when asked for", progress},
	{"a lease is kept alive, and takes its keys along when revoked", leases},
	{"a lease runs out", expiry},
	{"a mutex excludes, and its session's end frees it", mutex},
	{"an election has one leader at a time and tells observers", election},
	{"a software transaction retries until nobody interfered", stm},
	{"members, status and hashes are told by each node", maintenance},
	{"a snapshot is a stream to its end", snapshot},
	{"a client that requires a leader is served while there is one", requireLeader},
	{"a watch goes on after its node was killed", watchResume},
	{"users act by their roles, and a changed password ends a session", auth},
}

func main() {
	t := &tester{endpoints: strings.Split(os.Getenv("ENDPOINTS"), ","), answers: bufio.NewReader(os.Stdin)}
	failed := false
	for _, fact := range facts {
		if err := t.run(fact); err != nil {
			failed = true
			fmt.Printf("failed %s: %v\n", fact.name, err)
		} else {
			fmt.Printf("ok %s\n", fact.name)
		}
	}
	if failed {
		os.Exit(1)
	}
}

func (t *tester) run(fact fact) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := t.connect("", "")
	if err != nil {
		return err
	}
	defer client.Close()
	t.client = client
	return fact.check(ctx, t)
}

// connect opens a client of its own, as a user if one is named.
func (t *tester) connect(user, password string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: t.endpoints, DialTimeout: patience, Username: user, Password: password,
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
	})
}

// ask has the runner do something to a node, and waits until it is done.
func (t *tester) ask(what, endpoint string) error {
	fmt.Printf("%s %s\n", what, endpoint)
	answer, err := t.answers.ReadString('\n')
	if err != nil || answer != "done\n" {
		return fmt.Errorf("%s %s: answered %q, %v", what, endpoint, answer, err)
	}
	return nil
}

// all is nil if every claim holds.
func all(claims ...error) error {
	return errors.Join(claims...)
}

func equal[T comparable](what string, got, want T) error {
	if got == want {
		return nil
	}
	return fmt.Errorf("%s is %v, not %v", what, got, want)
}

func holds(what string, claim bool) error {
	if claim {
		return nil
	}
	return errors.New("does not hold: " + what)
}
