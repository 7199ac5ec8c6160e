package api

import "k8s.io/apimachinery/pkg/runtime"

// one lets a row hook be written for the row's own Go type. The row contract is that hooks are given nothing else.
func one[T runtime.Object, R any](f func(T) R) func(runtime.Object) R {
	return func(obj runtime.Object) R { return f(obj.(T)) }
}

// two is one for hooks on a changed object and the stored one.
func two[T runtime.Object, R any](f func(obj, old T) R) func(obj, old runtime.Object) R {
	return func(obj, old runtime.Object) R { return f(obj.(T), old.(T)) }
}

// set is one for hooks that change the object.
func set[T runtime.Object](f func(T)) func(runtime.Object) {
	return func(obj runtime.Object) { f(obj.(T)) }
}

// setFrom is two for hooks that change the first object.
func setFrom[T runtime.Object](f func(obj, old T)) func(obj, old runtime.Object) {
	return func(obj, old runtime.Object) { f(obj.(T), old.(T)) }
}
