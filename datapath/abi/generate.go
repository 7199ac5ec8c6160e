package abi

// clang-19 and llvm-strip-19 are Debian's: every machine generates the same
// bytes. netdev sees every map but those of sockets, so its types serve pod too.

//go:generate ./generate.sh netdev -type conntrack_flag -type node_flag -type frontend_flag -type service_flag -type policy_peer -type policy_ports
//go:generate ./generate.sh pod -no-global-types -type dns_key -type dns_name -type dns_zone -type dns_count -type dns_zone_flag -type dns_name_flag
//go:generate ./generate.sh sock
//go:generate ./generate.sh overlay -no-global-types
//go:generate ./generate.sh xdp -no-global-types
