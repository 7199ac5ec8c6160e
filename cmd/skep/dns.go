package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/server"
)

// dnsSocket is where a node's DNS server lets itself be looked into.
func dnsSocket(p paths) string { return filepath.Join(p.run, "dns.sock") }

func dnsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Look up names as a pod does, and look into this node's DNS server",
	}
	cmd.AddCommand(dnsLookupCommand(), dnsStatsCommand(), dnsTopCommand(), dnsServeCommand())
	return cmd
}

// lookupOptions are the flags of skep dns lookup.
type lookupOptions struct {
	resolvConf, server, from, namespace, kubeconfig, run string
}

func dnsLookupCommand() *cobra.Command {
	o := lookupOptions{}
	cmd := &cobra.Command{
		Use:   "lookup NAME [TYPE…]",
		Short: "Look up a name through the search list of resolv.conf, or of a pod",
		Long: `Look up a name through the search list of resolv.conf. With --from, look it up as a pod of this node would, and show for each name
of its search list what this node's DNS server answers, who answered (the kernel, the server from the cluster's zone or its cache, an upstream server) and why.`,
		Example: `  # From inside a pod
  skep exec POD -- /skep dns lookup echo

  # On the node, as a pod would
  skep dns lookup echo --from POD -n default

  # On the node, asking a server
  skep dns lookup echo.default.svc.cluster.local A SRV --server 10.96.0.10`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			types := args[1:]
			if len(types) == 0 {
				types = []string{"A"}
			}
			for i, name := range types {
				types[i] = strings.ToUpper(name)
				if _, ok := dns.StringToType[types[i]]; !ok {
					return fmt.Errorf("%q is not a record type", name)
				}
			}
			if o.from != "" {
				return o.explain(cmd.Context(), cmd.OutOrStdout(), args[0], types)
			}
			return o.ask(cmd.OutOrStdout(), args[0], types)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.resolvConf, "resolv-conf", "/etc/resolv.conf", "file with servers and search list")
	f.StringVar(&o.server, "server", "", "address of the server to ask; default: those of resolv.conf")
	f.StringVar(&o.from, "from", "", "pod of this node to look up as")
	f.StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the pod")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig to find the pod with; default: $KUBECONFIG, else this machine's node")
	f.StringVar(&o.run, "run-dir", defaultPaths().run, "where the node keeps its sockets")
	return cmd
}

func (o lookupOptions) ask(out io.Writer, name string, types []string) error {
	cfg, err := dns.ClientConfigFromFile(o.resolvConf)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.resolvConf, err)
	}
	if o.server != "" {
		cfg.Servers = []string{o.server}
	}
	if len(cfg.Servers) == 0 {
		return fmt.Errorf("%s names no server", o.resolvConf)
	}
	for _, t := range types {
		if err := lookup(out, cfg, name, dns.StringToType[t]); err != nil {
			return err
		}
	}
	return nil
}

// lookup asks for the name under each entry of the search list until one has records, and prints them.
func lookup(out io.Writer, cfg *dns.ClientConfig, name string, qtype uint16) error {
	server := net.JoinHostPort(cfg.Servers[0], cfg.Port)
	for _, full := range cfg.NameList(name) {
		m, took, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion(full, qtype), server)
		if err != nil {
			return fmt.Errorf("ask %s for %s: %w", server, full, err)
		}
		if len(m.Answer) == 0 {
			fmt.Fprintf(out, "%-50s %s\t(%v)\n", full, dns.RcodeToString[m.Rcode], took.Round(time.Microsecond))
			continue
		}
		for _, rr := range m.Answer {
			fmt.Fprintf(out, "%s\t(%v from %s)\n", rr, took.Round(time.Microsecond), server)
		}
		return nil
	}
	return fmt.Errorf("%s has no %s record", name, dns.TypeToString[qtype])
}

// explain walks the pod's search list against this node's server.
func (o lookupOptions) explain(ctx context.Context, out io.Writer, name string, types []string) error {
	cfg, err := adminConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	pod, err := client.CoreV1().Pods(o.namespace).Get(ctx, o.from, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("find the pod to look up as: %w", err)
	}
	list := podResolver(pod)
	for _, t := range types {
		found := false
		for _, full := range list.NameList(name) {
			var e server.Explanation
			query := url.Values{"name": {full}, "type": {t}, "client": {pod.Status.PodIP}}
			if err := inspect(ctx, o.run, "/resolve?"+query.Encode(), &e); err != nil {
				return err
			}
			fmt.Fprintf(out, "%-50s %-5s %-9s %s: %s (%.1f us)\n", e.Name, e.Type, e.Rcode, e.From, e.Why, e.Us)
			for _, rr := range e.Answers {
				fmt.Fprintf(out, "  %s\n", rr)
			}
			if found = len(e.Answers) > 0; found {
				break
			}
		}
		if !found {
			return fmt.Errorf("%s has no %s record for pod %s/%s", name, t, pod.Namespace, pod.Name)
		}
	}
	return nil
}

// podResolver is the resolv.conf that the pod has.
func podResolver(pod *corev1.Pod) *dns.ClientConfig {
	cfg := &dns.ClientConfig{Port: "53", Ndots: 5, Search: []string{pod.Namespace + ".svc." + defaultDomain, "svc." + defaultDomain, defaultDomain}}
	if pod.Spec.DNSPolicy == corev1.DNSNone || pod.Spec.DNSPolicy == corev1.DNSDefault {
		cfg.Search, cfg.Ndots = nil, 1
	}
	if own := pod.Spec.DNSConfig; own != nil {
		cfg.Search = append(cfg.Search, own.Searches...)
		for _, option := range own.Options {
			if option.Name == "ndots" && option.Value != nil {
				_, _ = fmt.Sscan(*option.Value, &cfg.Ndots) // resolvers ignore a value that is no number too
			}
		}
	}
	return cfg
}

// inspect asks this node's DNS server about itself.
func inspect(ctx context.Context, run, path string, into any) error {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", dnsSocket(paths{run: run}))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://dns"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask this node's DNS server (is the node up? start it with `skep up`): %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("this node's DNS server: %s", strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// inspectDNS serves looks into the server until ctx ends.
func inspectDNS(ctx context.Context, p paths, s *server.Server) error {
	_ = os.Remove(dnsSocket(p)) // of a process that was killed
	l, err := net.Listen("unix", dnsSocket(p))
	if err != nil {
		return fmt.Errorf("serve looks into DNS: %w", err)
	}
	h := &http.Server{Handler: s.Inspect(), ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func dnsStatsCommand() *cobra.Command {
	var run, output string
	cmd := &cobra.Command{Use: "stats", Short: "What this node's DNS server has answered, and its upstream servers", Args: cobra.NoArgs,
		Example: `  skep dns stats
  skep dns stats -o json`}
	cmd.Flags().StringVar(&run, "run-dir", defaultPaths().run, "where the node keeps its sockets")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json; default: a table")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var st server.Stats
		if err := inspect(cmd.Context(), run, "/stats", &st); err != nil {
			return err
		}
		if output == "json" {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(st)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
		fmt.Fprintf(w, "ready\t%v\ncached\t%d\nrate limited\t%d\nshed\t%d\n", st.Ready, st.Cached, st.Limited, st.Shed)
		fmt.Fprintf(w, "kernel\t%s\n", st.Kernel.State)
		for _, reason := range slices.Sorted(maps.Keys(st.Kernel.Left)) {
			fmt.Fprintf(w, "left by the kernel: %s\t%d\n", reason, st.Kernel.Left[reason])
		}
		for _, t := range slices.Sorted(maps.Keys(st.Queries)) {
			fmt.Fprintf(w, "queries %s\t%d\n", t, st.Queries[t])
		}
		for _, a := range slices.Sorted(maps.Keys(st.Answers)) {
			fmt.Fprintf(w, "answers %s\t%d\n", a, st.Answers[a])
		}
		for _, u := range st.Upstreams {
			fmt.Fprintf(w, "upstream %s\thealthy %v, loops %v, p95 %v\n", u.Server, u.Healthy, u.Loops, u.P95)
		}
		return w.Flush()
	}
	return cmd
}

func dnsTopCommand() *cobra.Command {
	var run string
	var n int
	cmd := &cobra.Command{Use: "top", Short: "The names and clients that this node's DNS server saw most among its last sampled queries", Args: cobra.NoArgs,
		Example: `  skep dns top --rows 20`}
	cmd.Flags().StringVar(&run, "run-dir", defaultPaths().run, "where the node keeps its sockets")
	cmd.Flags().IntVar(&n, "rows", 10, "how many of each")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var rows []server.TopRow
		if err := inspect(cmd.Context(), run, fmt.Sprintf("/top?n=%d", n), &rows); err != nil {
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "WHAT\tOF\tSHARE\tSAMPLES")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%.1f%%\t%d\n", r.What, r.Of, 100*r.Share, r.Samples)
		}
		return w.Flush()
	}
	return cmd
}

// dnsServeCommand runs the server alone, for another cluster or for a measurement.
func dnsServeCommand() *cobra.Command {
	var kubeconfig, domain string
	var listen, upstream []string
	cmd := &cobra.Command{Use: "serve", Short: "Run the DNS server alone, for the cluster of a kubeconfig", Args: cobra.NoArgs,
		Example: `  skep dns serve --kubeconfig ~/.kube/config --listen 10.0.0.2:53`}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the cluster; default: $KUBECONFIG, else this machine's node")
	cmd.Flags().StringVar(&domain, "cluster-domain", defaultDomain, "the cluster's DNS domain")
	cmd.Flags().StringSliceVar(&listen, "listen", []string{"127.0.0.1:5353"}, "addresses to serve on")
	cmd.Flags().StringSliceVar(&upstream, "upstream", nil, "servers of names outside the cluster, as the configuration names them; default: those of /etc/resolv.conf")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return serveDNS(ctx, kubeconfig, domain, listen, upstream)
	}
	return cmd
}

// serveGCPercent is how much garbage, in percent of what is live, a server that runs alone lets come together.
const serveGCPercent = 30

func serveDNS(ctx context.Context, kubeconfig, domain string, listen, upstream []string) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	rest, err := adminConfig(kubeconfig)
	if err != nil {
		return err
	}
	rest.ContentType = kruntime.ContentTypeProtobuf // a list is decoded with a fraction of JSON's garbage
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	// What is live is small beside what a list leaves behind once, and little is allocated afterwards: collecting early costs nothing.
	debug.SetGCPercent(serveGCPercent)
	cfg := server.Config{Logger: logger}
	var own []netip.Addr
	for _, text := range listen {
		addr, err := netip.ParseAddrPort(text)
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		cfg.Listen, own = append(cfg.Listen, addr), append(own, addr.Addr())
	}
	for _, text := range upstream {
		u, err := forward.ParseServer(text)
		if err != nil {
			return fmt.Errorf("--upstream: %w", err)
		}
		cfg.Upstreams = append(cfg.Upstreams, u)
	}
	if upstream == nil {
		if cfg.Upstreams, err = forward.FromResolvConf("/etc/resolv.conf", own...); err != nil {
			logger.Warn("names outside the cluster cannot be resolved", "error", err)
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(cluster.Strip))
	objects, err := cluster.NewObjects(factory)
	if err != nil {
		return err
	}
	if cfg.Zone, err = cluster.NewZone(cluster.Config{Domain: domain, Objects: objects}); err != nil {
		return err
	}
	s := server.New(cfg)
	if err := s.Listen(ctx); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	go func() {
		factory.WaitForCacheSync(ctx.Done())
		debug.FreeOSMemory() // what the first lists left behind
	}()
	return s.Run(ctx)
}
