package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxOutput is how much of an answer an event shows, in bytes.
const maxOutput = 1024

// errFailed is returned when the container answered, and the answer was no.
var errFailed = errors.New("failed")

// once asks one time. The output explains an error.
func once(ctx context.Context, t Target, p *corev1.Probe) (string, error) {
	timeout := max(seconds(p.TimeoutSeconds), time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		out, code, err := t.Exec(ctx, p.Exec.Command, timeout)
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Sprintf("command timed out: %q timed out after %v", p.Exec.Command, timeout), err
		case err != nil:
			return err.Error(), err
		case code != 0:
			return string(out[:min(len(out), 10*maxOutput)]), errFailed
		}
		return "", nil
	case p.HTTPGet != nil:
		err := HTTPGet(ctx, p.HTTPGet, t.Container, t.Address(), "kube-probe/1.37")
		return text(err), err
	case p.TCPSocket != nil:
		err := dial(ctx, p.TCPSocket, t)
		return text(err), err
	case p.GRPC != nil:
		err := grpcHealth(ctx, net.JoinHostPort(t.Address(), strconv.Itoa(int(p.GRPC.Port))), p.GRPC.Service)
		return text(err), err
	}
	return "", nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func dial(ctx context.Context, a *corev1.TCPSocketAction, t Target) error {
	port, err := portOf(a.Port, t.Container)
	if err != nil {
		return err
	}
	host := a.Host
	if host == "" {
		host = t.Address()
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	// Reset rather than linger in TIME_WAIT: a node probes without end.
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return conn.Close()
}

// HTTPGet asks a container's HTTP server. Every status from 200 to 399 is a success; a redirect to another host is too.
func HTTPGet(ctx context.Context, a *corev1.HTTPGetAction, c *corev1.Container, address, agent string) error {
	req, err := request(ctx, a, c, address, agent)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		// The probe has no way to know the certificate's names; it asks whether the server works, not who it is.
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 10*maxOutput); err != nil && err != io.EOF {
		return err
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return nil
}

func request(ctx context.Context, a *corev1.HTTPGetAction, c *corev1.Container, address, agent string) (*http.Request, error) {
	port, err := portOf(a.Port, c)
	if err != nil {
		return nil, err
	}
	scheme, host := "http", a.Host
	if a.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	if host == "" {
		host = address
	}
	target, err := url.Parse(a.Path)
	if err != nil {
		target = &url.URL{Path: a.Path}
	}
	target.Scheme, target.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, h := range a.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	return req, nil
}

func portOf(port intstr.IntOrString, c *corev1.Container) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for i := range c.Ports {
		if c.Ports[i].Name == port.StrVal {
			return int(c.Ports[i].ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("couldn't find port: %s", port.StrVal)
}
