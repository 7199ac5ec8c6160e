package token

import (
	"encoding/json"
	"fmt"
	"net/http"

	jose "gopkg.in/go-jose/go-jose.v2"
)

// The paths under which a verifier outside the cluster finds the issuer's keys.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/openid/v1/jwks"
)

// Discovery returns the handlers of ConfigurationPath and KeysPath by their paths. server is the URL of the API server without a
// slash at its end.
func (i *Issuer) Discovery(server string) (map[string]http.Handler, error) {
	configuration, err := json.Marshal(map[string]any{
		"issuer":                                i.name,
		"jwks_uri":                              server + KeysPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	})
	if err != nil {
		return nil, fmt.Errorf("discovery of token issuer %s: %w", i.name, err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.public}})
	if err != nil {
		return nil, fmt.Errorf("discovery of token issuer %s: %w", i.name, err)
	}
	return map[string]http.Handler{
		ConfigurationPath: document("application/json", configuration),
		KeysPath:          document("application/jwk-set+json", keys),
	}, nil
}

// document serves bytes that never change while the server runs.
func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		// A client that is gone does not need the rest.
		_, _ = w.Write(body)
	})
}
