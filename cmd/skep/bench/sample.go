package bench

import (
	"math"
	"slices"
	"time"
)

// percentile returns the p-th percentile (0..100, nearest rank) of took in microseconds, rounded to a tenth; took is sorted
// in place. It is 0 for an empty slice.
func percentile(took []time.Duration, p float64) float64 {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	rank := int(math.Ceil(p/100*float64(len(took)))) - 1
	return roundTenth(float64(took[min(max(rank, 0), len(took)-1)].Nanoseconds()) / 1000)
}

// median returns the middle value, the mean of the two middle ones for an even count, 0 for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// spread is half the distance between the quartiles in percent of the median, 0 for no values.
func spread(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	at := func(part float64) float64 { return s[int(math.Round(part*float64(len(s)-1)))] }
	return roundTenth(100 * ratio((at(0.75)-at(0.25))/2, median(s)))
}

// roundTenth keeps one digit behind the point.
func roundTenth(v float64) float64 { return math.Round(v*10) / 10 }

// ratio is a/b with three digits, 0 where b is 0.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return math.Round(a/b*1000) / 1000
}
