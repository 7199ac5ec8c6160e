package apiserver

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
)

const (
	// storagePrefix is the root of all keys in etcd.
	storagePrefix = "/registry"
	// encryptedPrefix begins every value that the secretbox transformer wrote; "skep" names the key.
	encryptedPrefix = "k8s:enc:secretbox:v1:skep:"
	// compactEvery is how often etcd forgets history, which is also what a watch can resume from.
	compactEvery = 5 * time.Minute
)

// storages tells each kind how it is stored: as protobuf below storagePrefix, Secrets encrypted. It implements
// generic.RESTOptionsGetter.
type storages struct {
	backend storagebackend.Config
	codecs  serializer.CodecFactory
	// versions are the stored version of each resource.
	versions map[schema.GroupResource]schema.GroupVersion
	secrets  value.Transformer
	counts   flowcontrolrequest.StorageObjectCountTracker
}

func newStorages(endpoints []string, key []byte, codecs serializer.CodecFactory, counts flowcontrolrequest.StorageObjectCountTracker) (*storages, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("the key for Secrets has %d bytes, not 32", len(key))
	}
	backend := *storagebackend.NewDefaultConfig(storagePrefix, nil)
	backend.Transport.ServerList = endpoints
	backend.CompactionInterval = compactEvery
	backend.StorageObjectCountTracker = counts
	// Values from before encryption are read as they are and encrypted by the next write.
	secrets := value.NewPrefixTransformers(nil,
		value.PrefixTransformer{Prefix: []byte(encryptedPrefix), Transformer: secretbox.NewSecretboxTransformer([32]byte(key))},
		value.PrefixTransformer{Transformer: identity.NewEncryptCheckTransformer()})
	return &storages{backend: backend, codecs: codecs, versions: map[schema.GroupResource]schema.GroupVersion{}, secrets: secrets, counts: counts}, nil
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (s *storages) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	version, ok := s.versions[resource]
	if !ok {
		return generic.RESTOptions{}, fmt.Errorf("%s has no stored version", resource)
	}
	backend := s.backend
	var err error
	backend.Codec, backend.EncodeVersioner, err = serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType: runtime.ContentTypeProtobuf, StorageSerializer: s.codecs,
		StorageVersion: version, MemoryVersion: schema.GroupVersion{Group: version.Group, Version: runtime.APIVersionInternal},
		Config: backend,
	})
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("codec of %s: %w", resource, err)
	}
	if resource.Resource == "secrets" {
		backend.Transformer = s.secrets
	}
	decorator := genericregistry.StorageWithCacher()
	if resource.Resource == "events" {
		// Events are written often and watched by few: a cache of them costs more than it saves.
		decorator = generic.UndecoratedStorage
	}
	prefix := resource.Resource
	if resource.Group != "" {
		prefix = resource.Group + "/" + resource.Resource
	}
	return generic.RESTOptions{
		StorageConfig:             backend.ForResource(resource),
		Decorator:                 decorator,
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   4,
		ResourcePrefix:            prefix,
		StorageObjectCountTracker: s.counts,
	}, nil
}
