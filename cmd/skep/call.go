package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func netCallCommand() *cobra.Command {
	var wait, timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call URL",
		Short: "Call an http, tcp or udp address once and print the answer",
		Long:  "Call an address from here, the node or a pod, on a new connection, and print the answer: of http the body, of tcp and udp one line.",
		Example: `  skep exec POD -- /skep net call http://echo/
  skep net call udp://10.96.0.7:8081 --timeout 1s`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := url.Parse(args[0])
			if err != nil {
				return err
			}
			deadline := time.Now().Add(wait)
			for {
				answer, err := call(cmd.Context(), target, timeout)
				if err == nil {
					_, err = os.Stdout.Write(answer)
					return err
				}
				if time.Now().After(deadline) || cmd.Context().Err() != nil {
					return err
				}
				time.Sleep(20 * time.Millisecond)
			}
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "try again for this long while the call fails")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "time for one call")
	return cmd
}

// call does one request on a connection of its own.
func call(ctx context.Context, target *url.URL, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch target.Scheme {
	case "http":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err == nil && resp.StatusCode >= 400 {
			err = fmt.Errorf("%s: %s", target, resp.Status)
		}
		return body, err
	case "tcp", "udp":
		conn, err := new(net.Dialer).DialContext(ctx, target.Scheme, target.Host)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		deadline, _ := ctx.Deadline()
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return nil, err
		}
		line, err := bufio.NewReader(conn).ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = nil
		}
		return line, err
	}
	return nil, fmt.Errorf("%q: the scheme is not http, tcp or udp", target.String())
}
