package config

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestWatcherKeepsTheLastGoodConfiguration(t *testing.T) {
	client, used := fake.NewClientset(), make(chan *Config, 10)
	w := NewWatcher(client, "n1", func(c *Config) { used <- c }, slog.New(slog.DiscardHandler))
	go func() { _ = w.Run(t.Context()) }()
	maps := client.CoreV1().ConfigMaps(Namespace)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name}, Data: map[string]string{Key: "ttl: 7"}}
	if _, err := maps.Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	next := func() *Config {
		t.Helper()
		select {
		case c := <-used:
			return c
		case <-time.After(5 * time.Second):
			t.Fatal("no configuration came into use")
		}
		return nil
	}
	if c := next(); c.TTL == nil || *c.TTL != 7 {
		t.Errorf("%+v", c)
	}
	for _, text := range []string{"ttl: nonsense", "ttl: 9"} {
		cm.Data[Key] = text
		if _, err := maps.Update(t.Context(), cm.DeepCopy(), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if c := next(); *c.TTL != 9 {
		t.Errorf("%+v", c)
	}
	events, err := client.CoreV1().Events(Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(events.Items) > 1 || (len(events.Items) == 1 && !strings.Contains(events.Items[0].Message, "ttl")) {
		t.Errorf("%v, %v", events, err)
	}
}
