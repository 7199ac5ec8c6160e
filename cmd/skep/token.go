package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/skep-io/skep/control/join"
	"github.com/skep-io/skep/control/pki"
)

func tokenCommand() *cobra.Command {
	kubeconfig := ""
	cmd := &cobra.Command{Use: "token", Short: "Tokens by which machines join as nodes"}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of an administrator")
	secrets := func() (typedcorev1.SecretInterface, string, error) {
		cfg, err := adminConfig(kubeconfig)
		if err != nil {
			return nil, "", err
		}
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return nil, "", err
		}
		hash, err := pki.HashPEM(cfg.CAData)
		return client.CoreV1().Secrets(metav1.NamespaceSystem), hash, err
	}
	cmd.AddCommand(tokenCreateCommand(secrets), tokenListCommand(secrets), tokenDeleteCommand(secrets))
	return cmd
}

// secretsFunc gives access to the tokens' Secrets and the hash of the cluster's CA.
type secretsFunc func() (typedcorev1.SecretInterface, string, error)

func tokenCreateCommand(open secretsFunc) *cobra.Command {
	ttl, description, server, quiet := 24*time.Hour, "", "", false
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print the command that joins with it", Args: cobra.NoArgs,
		Example: "  skep token create --ttl 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			secrets, hash, err := open()
			if err != nil {
				return err
			}
			token := join.NewToken(ttl, description)
			if _, err := secrets.Create(cmd.Context(), token.Object(), metav1.CreateOptions{}); err != nil {
				return err
			}
			if quiet {
				fmt.Println(token)
				return nil
			}
			if server == "" {
				ip, err := machineIP(true)
				if err != nil {
					return err
				}
				server = (&url.URL{Scheme: "https", Host: fmt.Sprintf("%s:%d", ip, defaultNodeConfig().apiPort)}).String()
			}
			fmt.Printf("skep agent --server %s --token %s --ca-hash %s\n", server, token, hash)
			return removeExpired(cmd.Context(), secrets)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", ttl, "how long the token serves; 0: for ever")
	f.StringVar(&description, "description", "", "what the token is for")
	f.StringVar(&server, "server", "", "URL of the API server to print; default: that of this machine")
	f.BoolVarP(&quiet, "quiet", "q", false, "print the token alone")
	return cmd
}

func tokenListCommand(open secretsFunc) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secrets, hash, err := open()
			if err != nil {
				return err
			}
			tokens, err := listTokens(cmd.Context(), secrets)
			if err != nil {
				return err
			}
			out := tabwriter.NewWriter(os.Stdout, 0, 8, 3, ' ', 0)
			fmt.Fprintln(out, "TOKEN\tEXPIRES\tDESCRIPTION")
			for _, t := range tokens {
				end := "never"
				if t.Expired(time.Now()) {
					end = "expired"
				} else if !t.Expires.IsZero() {
					end = t.Expires.Format(time.RFC3339)
				}
				fmt.Fprintf(out, "%s\t%s\t%s\n", t, end, t.Description)
			}
			fmt.Fprintf(out, "\nCA hash: %s\n", hash)
			return out.Flush()
		},
	}
}

func tokenDeleteCommand(open secretsFunc) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOKEN|ID...", Short: "Make tokens invalid; nodes that joined with them stay", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			secrets, _, err := open()
			if err != nil {
				return err
			}
			for _, id := range args {
				if t, err := join.ParseToken(id); err == nil {
					id = t.ID
				}
				if err := secrets.Delete(cmd.Context(), join.SecretName(id), metav1.DeleteOptions{}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func listTokens(ctx context.Context, secrets typedcorev1.SecretInterface) ([]join.Token, error) {
	list, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("type", string(join.SecretType)).String()})
	if err != nil {
		return nil, err
	}
	var tokens []join.Token
	for i := range list.Items {
		if t, err := join.FromObject(&list.Items[i]); err == nil {
			tokens = append(tokens, t)
		}
	}
	return tokens, nil
}

// removeExpired deletes the tokens that have ended: they are of no use to anybody.
func removeExpired(ctx context.Context, secrets typedcorev1.SecretInterface) error {
	tokens, err := listTokens(ctx, secrets)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if !t.Expired(time.Now()) {
			continue
		}
		if err := secrets.Delete(ctx, join.SecretName(t.ID), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
