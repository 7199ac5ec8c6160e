package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
)

func dnsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Look up names as a pod does",
	}
	cmd.AddCommand(dnsLookupCommand())
	return cmd
}

func dnsLookupCommand() *cobra.Command {
	var resolvConf, server string
	cmd := &cobra.Command{
		Use:   "lookup NAME [TYPE…]",
		Short: "Look up a name through the search list of resolv.conf",
		Example: `  # From inside a pod
  skep exec POD -- /skep dns lookup echo

  # From the node, asking a server
  skep dns lookup echo.default.svc.cluster.local A SRV --server 10.96.0.10`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := dns.ClientConfigFromFile(resolvConf)
			if err != nil {
				return fmt.Errorf("read %s: %w", resolvConf, err)
			}
			if server != "" {
				cfg.Servers = []string{server}
			}
			if len(cfg.Servers) == 0 {
				return fmt.Errorf("%s names no server", resolvConf)
			}
			types := args[1:]
			if len(types) == 0 {
				types = []string{"A"}
			}
			for _, name := range types {
				qtype, ok := dns.StringToType[strings.ToUpper(name)]
				if !ok {
					return fmt.Errorf("%q is not a record type", name)
				}
				if err := lookup(os.Stdout, cfg, args[0], qtype); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&resolvConf, "resolv-conf", "/etc/resolv.conf", "file with servers and search list")
	cmd.Flags().StringVar(&server, "server", "", "address of the server to ask; default: those of resolv.conf")
	return cmd
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
