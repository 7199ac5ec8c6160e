package vector

import "strings"

// Response codes by name.
const (
	noError  = "NOERROR"
	nxDomain = "NXDOMAIN"
)

const zone = ".svc.cluster.local."

// records are answers; an empty text is NODATA.
func has(name, rrtype string, answer ...string) Case {
	return Case{Name: name, Type: rrtype, Rcode: noError, Answer: answer}
}

func missing(name, rrtype string) Case { return Case{Name: name, Type: rrtype, Rcode: nxDomain} }

// with adds records that help to an answer.
func (c Case) with(extra ...string) Case {
	c.Extra = extra
	return c
}

// own is a record of the question's own name and type.
func own(name, rrtype string, data ...string) Case {
	c := Case{Name: name, Type: rrtype, Rcode: noError}
	for _, d := range data {
		c.Answer = append(c.Answer, name+" IN "+rrtype+" "+d)
	}
	return c
}

// Cases are the questions with their answers.
func Cases() []Case {
	var all []Case
	for _, part := range [][]Case{structure(), clusterIP(), headless(), aliases(), pods(), reverse()} {
		all = append(all, part...)
	}
	return all
}

func structure() []Case {
	const apex = "cluster.local."
	return []Case{
		own(apex, "SOA", "ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5"),
		own("Cluster.LOCAL.", "SOA", "ns.dns.Cluster.LOCAL. hostmaster.Cluster.LOCAL. 42 7200 1800 86400 5"),
		own(apex, "NS", "kube-dns.kube-system.svc.cluster.local.").with("kube-dns.kube-system.svc.cluster.local. IN A 10.96.0.10"),
		has(apex, "A"), has(apex, "MX"), has("svc.cluster.local.", "A"), has("pod.cluster.local.", "A"),
		own("ns.dns.cluster.local.", "A", "10.96.0.10"), has("ns.dns.cluster.local.", "AAAA"), has("dns.cluster.local.", "A"),
		missing("x.dns.cluster.local.", "A"),
		own("dns-version.cluster.local.", "TXT", `"1.1.0"`), has("dns-version.cluster.local.", "A"), missing("a.dns-version.cluster.local.", "TXT"),
		has("default"+zone, "A"), has("DEFAULT"+zone, "SRV"), has("bare"+zone, "A"), has("default.pod.cluster.local.", "A"),
		missing("nowhere"+zone, "A"), missing("nowhere.pod.cluster.local.", "A"), missing("other.cluster.local.", "A"),
		missing("web.default.cluster.local.", "A"), missing("web.nowhere"+zone, "A"), missing("gone.default"+zone, "AAAA"),
		missing("example.com"+zone, "A"), missing("example.com.default"+zone, "A"), missing("example.com.cluster.local.", "A"),
		missing("a.b.c.web.default"+zone, "A"), missing("a.b.c.d.e.f.web.default"+zone, "SRV"),
		// A Service that is seen before its Namespace object makes the name above it exist.
		has("unseen"+zone, "A"), own("early.unseen"+zone, "A", "10.96.0.11"),
	}
}

func clusterIP() []Case {
	const web, mixed, dual = "web.default" + zone, "mixed.default" + zone, "dual.default" + zone
	return []Case{
		own(web, "A", "10.96.0.5"), own("WEB.Default.svc.cluster.LOCAL.", "A", "10.96.0.5"),
		has(web, "AAAA"), has(web, "MX"), has(web, "TXT"), has(web, "HTTPS"), has(web, "CNAME"), has(web, "NS"), has(web, "SOA"), has(web, "PTR"),
		has(web, "ANY", web+" IN A 10.96.0.5"),
		own(dual, "A", "10.96.0.7"), own(dual, "AAAA", "fd00:96::7"), has("six.default"+zone, "A"), own("six.default"+zone, "AAAA", "fd00:96::8"),
		has("six.default"+zone, "ANY", "six.default"+zone+" IN AAAA fd00:96::8"),
		own("portless.default"+zone, "A", "10.96.0.9"), has("portless.default"+zone, "SRV"), missing("_tcp.portless.default"+zone, "SRV"),
		own("_http._tcp."+web, "SRV", "0 100 80 "+web).with(web + " IN A 10.96.0.5"),
		own("_HTTP._TCP.web.Default.svc.Cluster.Local.", "SRV", "0 100 80 web.default.svc.Cluster.Local.").with("web.default.svc.Cluster.Local. IN A 10.96.0.5"),
		own("http.tcp."+web, "SRV", "0 100 80 "+web).with(web + " IN A 10.96.0.5"),
		own("_http._tcp."+dual, "SRV", "0 100 80 "+dual).with(dual+" IN A 10.96.0.7", dual+" IN AAAA fd00:96::7"),
		own(web, "SRV", "0 100 80 "+web).with(web + " IN A 10.96.0.5"),
		own(mixed, "SRV", "0 50 80 "+mixed, "0 50 99 "+mixed).with(mixed + " IN A 10.96.0.6"),
		own("both.default"+zone, "SRV", "0 100 53 both.default"+zone).with("both.default" + zone + " IN A 10.96.0.12"),
		missing("_http._udp."+web, "SRV"), missing("_https._tcp."+web, "SRV"), missing("_._udp."+mixed, "SRV"), missing("_udp."+mixed, "SRV"),
		own("_http._tcp."+web, "A", "10.96.0.5"), has("_http._tcp."+web, "AAAA"), has("_http._tcp."+web, "TXT"),
		has("_tcp."+web, "SRV"), has("_tcp."+web, "A"), has("tcp."+web, "A"), missing("_udp."+web, "A"),
		own("10-244-0-9."+web, "A", "10.244.0.9"), has("10-244-0-9."+web, "AAAA"), missing("10-244-0-8."+web, "A"),
		missing("a.10-244-0-9."+web, "A"), missing("_http._tcp.10-244-0-9."+web, "SRV"),
	}
}

func headless() []Case {
	const db, dual = "db.default" + zone, "dbdual.default" + zone
	return []Case{
		own(db, "A", "10.244.0.2", "10.244.0.3", "10.244.0.5", "10.244.0.6"), has(db, "AAAA"),
		own("db-0."+db, "A", "10.244.0.2"), own("DB-0."+db, "A", "10.244.0.2"), own("twin."+db, "A", "10.244.0.5", "10.244.0.6"),
		own("10-244-0-3."+db, "A", "10.244.0.3"), missing("10-244-0-4."+db, "A"), missing("10-244-0-2."+db, "A"),
		own("_http._tcp."+db, "SRV", "0 33 8080 10-244-0-3."+db, "0 33 8080 db-0."+db, "0 33 8080 twin."+db).with(
			"10-244-0-3."+db+" IN A 10.244.0.3", "db-0."+db+" IN A 10.244.0.2", "twin."+db+" IN A 10.244.0.5", "twin."+db+" IN A 10.244.0.6"),
		has("_tcp."+db, "SRV"), has("_tcp."+db, "A"), missing("_udp."+db, "SRV"), missing("_http._udp."+db, "SRV"),
		own("_http._tcp."+db, "A", "10.244.0.2", "10.244.0.3", "10.244.0.5", "10.244.0.6"),
		own(dual, "A", "10.244.0.20"), own(dual, "AAAA", "fd00:244::", "fd00:244::20"), own("a."+dual, "AAAA", "fd00:244::20"),
		own("fd00-244--0."+dual, "AAAA", "fd00:244::"), has("fd00-244--0."+dual, "A"),
		missing("empty.default"+zone, "A"), missing("empty.default"+zone, "SRV"), missing("_http._tcp.empty.default"+zone, "SRV"), missing("_tcp.empty.default"+zone, "SRV"),
		own("eager.default"+zone, "A", "10.244.0.31"),
	}
}

func aliases() []Case {
	const ext, inner = "ext.default" + zone, "inner.default" + zone
	const chased = inner + " IN CNAME web.default" + zone
	return []Case{
		own(ext, "CNAME", "example.com."), has(ext, "ANY", ext+" IN CNAME example.com."),
		missing("below."+ext, "A"), missing("_http._tcp."+ext, "SRV"),
		own(inner, "CNAME", "web.default"+zone), has(inner, "A", chased, "web.default"+zone+" IN A 10.96.0.5"), has(inner, "AAAA", chased),
		{Name: "lost.default" + zone, Type: "A", Rcode: nxDomain, Answer: []string{"lost.default" + zone + " IN CNAME gone.default" + zone}},
		{Name: "loop.default" + zone, Type: "A", Rcode: "SERVFAIL", Answer: repeated("loop.default"+zone+" IN CNAME loop.default"+zone, 9)},
		missing("literal.default"+zone, "A"), missing("literal.default"+zone, "CNAME"),
	}
}

func repeated(s string, n int) []string {
	return strings.Split(strings.TrimSuffix(strings.Repeat(s+"\n", n), "\n"), "\n")
}

func pods() []Case {
	const pod = ".default.pod.cluster.local."
	return []Case{
		own("10-1-2-3"+pod, "A", "10.1.2.3"), has("10-1-2-3"+pod, "AAAA"), own("fd00--1"+pod, "AAAA", "fd00::1"), has("fd00--1"+pod, "A"),
		has("10-1-2-3"+pod, "ANY", "10-1-2-3"+pod+" IN A 10.1.2.3"),
		missing("10-1-2-3.nowhere.pod.cluster.local.", "A"), missing("nonsense"+pod, "A"), missing("10-1-2"+pod, "A"), missing("10-1-2-300"+pod, "A"), missing("a.10-1-2-3"+pod, "A"),
	}
}

func reverse() []Case {
	const arpa = ".10.in-addr.arpa."
	const six = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0."
	return []Case{
		own("5.0.96"+arpa, "PTR", "web.default"+zone), own("5.0.96.10.IN-ADDR.ARPA.", "PTR", "web.default"+zone), has("5.0.96"+arpa, "A"),
		own("2.0.244"+arpa, "PTR", "db-0.db.default"+zone), own("3.0.244"+arpa, "PTR", "10-244-0-3.db.default"+zone),
		own("9.0.244"+arpa, "PTR", "10-244-0-9.web.default"+zone), has("9.0.244"+arpa, "A"), own("6.0.244"+arpa, "PTR", "twin.db.default"+zone),
		own("7.0.0.0."+six+"0.0.6.9.0.0.0.0.d.f.ip6.arpa.", "PTR", "dual.default"+zone),
		missing("99.0.96"+arpa, "PTR"), missing("4.0.244"+arpa, "PTR"),
	}
}
