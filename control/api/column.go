package api

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Shown where a cell has no value; clients and test suites match on them.
const (
	none    = "<none>"
	unknown = "<unknown>"
	unset   = "<unset>"
)

// longest is the number of items that a cell lists before it only counts.
const longest = 3

// nameColumn is the column that clients recognise as the name of the object, by its format.
func nameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
}

func ageColumn() metav1.TableColumnDefinition {
	return column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// column is one that is always shown.
func column(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description}
}

// wide is a column that is shown only when the client asks for more (-o wide).
func wide(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Priority: 1, Description: description}
}

// nameAndAge are the columns of kinds that have nothing else to show.
func nameAndAge() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(), ageColumn()}
}

// age is the time since t in the short form of the CLI ("5m", "3d4h").
func age(t metav1.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// microAge is age of a time with microseconds.
func microAge(t metav1.MicroTime) string {
	return age(metav1.NewTime(t.Time))
}

// orElse returns value, or other where value is empty.
func orElse(value, other string) string {
	if value == "" {
		return other
	}
	return value
}

// some lists the first few items and counts the others.
func some(items []string, empty string) string {
	if len(items) == 0 {
		return empty
	}
	if len(items) > longest {
		return fmt.Sprintf("%s + %d more...", strings.Join(items[:longest], ","), len(items)-longest)
	}
	return strings.Join(items, ",")
}

// containerColumns are the wide columns of the kinds that hold a pod template.
func containerColumns(selector string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		wide("Containers", "string", "Names of each container in the template."),
		wide("Images", "string", "Images referenced by each container in the template."),
		wide("Selector", "string", selector),
	}
}

// containerCells are the names and the images of a template's containers.
func containerCells(containers []corev1.Container) (names, images string) {
	n := make([]string, len(containers))
	i := make([]string, len(containers))
	for at, c := range containers {
		n[at], i[at] = c.Name, c.Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}
