// Package testserver takes the place of the package of this name in k8s.io/apiserver: where Kubernetes' tests start an etcd
// within their own process, it starts a Quorate of the test's own.
//
// `cargo xtask kubernetes` puts this file where the original is, and names the program in QUORATE and the number of its nodes
// in QUORATE_NODES.
package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// How often other ports are tried when some are taken.
const attempts = 5

// NewTestConfig gives what a test may change before it hands it to RunEtcd.
func NewTestConfig(testing.TB) *embed.Config {
	return embed.NewConfig()
}

// RunEtcd starts nodes without data and gives a client that knows all of them. The nodes end with the test.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	if !cfg.ClientTLSInfo.Empty() {
		t.Skip("Quorate has no TLS on the client port yet")
	}
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   start(t, cfg),
		DialTimeout: 10 * time.Second,
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	record(client)
	return client
}

// record has the client count its requests, which some tests look at. Newer versions count requests of both kinds in one place.
func record(client *kubernetes.Client) {
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.Kubernetes = recorder
	switch counted := any(storagetesting.NewKVRecorder).(type) {
	case func(clientv3.KV) *storagetesting.KVRecorder:
		client.KV = counted(client.KV)
	case func(clientv3.KV, *storagetesting.KubernetesRecorder) *storagetesting.KVRecorder:
		client.KV = counted(client.KV, recorder)
	}
}

func start(t testing.TB, cfg *embed.Config) []string {
	t.Helper()
	var failures error
	for range attempts {
		endpoints, err := startAt(t, freePort(t), cfg)
		if err == nil {
			return endpoints
		}
		failures = errors.Join(failures, err)
	}
	t.Fatal(failures)
	return nil
}

// freePort gives a port that nobody listened on a moment ago. The other ports of the nodes follow it.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func startAt(t testing.TB, port int, cfg *embed.Config) ([]string, error) {
	command := exec.Command(os.Getenv("QUORATE"), "dev",
		"--nodes", os.Getenv("QUORATE_NODES"),
		"--client-port", strconv.Itoa(port),
		"--data-dir", t.TempDir(),
		"--quota-backend-bytes", strconv.FormatInt(cfg.QuotaBackendBytes, 10))
	if interval := cfg.WatchProgressNotifyInterval; interval > 0 {
		command.Args = append(command.Args, "--watch-progress-notify-interval", interval.String())
	}
	var complaints strings.Builder
	command.Stderr = &complaints
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	var ended error
	end := func() {
		_ = command.Process.Kill()
		ended = command.Wait()
	}
	endpoints := introduced(output)
	if len(endpoints) == 0 {
		end()
		return nil, fmt.Errorf("quorate dev at port %d: %w: %s", port, ended, complaints.String())
	}
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("quorate dev: %s", complaints.String())
		}
	})
	return endpoints, nil
}

// introduced reads where clients connect, which is told when the nodes have a leader; of each node there is a line.
func introduced(output io.Reader) []string {
	var endpoints []string
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if _, rest, found := strings.Cut(lines.Text(), "  clients "); found {
			endpoints = append(endpoints, "http://"+strings.Fields(rest)[0])
		} else if len(endpoints) > 0 {
			return endpoints
		}
	}
	return nil
}
