package review

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// decide asks the authorizer.
func decide(ctx context.Context, a authorizer.Authorizer, question authorizer.AttributesRecord) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := a.Authorize(ctx, question)
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny,
		Reason: reason, EvaluationError: evaluationError(err, question),
	}
}

// evaluationError tells what of the question did not count. A selector narrows a request, so one that is not understood is left
// out: the question is then a wider one, and a "yes" is still right.
func evaluationError(err error, question authorizer.AttributesRecord) string {
	var texts []string
	if err != nil {
		texts = append(texts, err.Error())
	}
	ignored := func(selector string, understood int) {
		extent := "ignored"
		if understood > 0 {
			extent = "partially ignored"
		}
		texts = append(texts, fmt.Sprintf("spec.resourceAttributes.%s %s due to parse error", selector, extent))
	}
	if question.FieldSelectorParsingErr != nil {
		ignored("fieldSelector", len(question.FieldSelectorRequirements))
	}
	if question.LabelSelectorParsingErr != nil {
		ignored("labelSelector", len(question.LabelSelectorRequirements))
	}
	return strings.Join(texts, "; ")
}

// attributes is the question whether a user may do something to a resource or, without one, to a path. One of both is not nil.
func attributes(who user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if resource == nil {
		return authorizer.AttributesRecord{User: who, Verb: path.Verb, Path: path.Path}
	}
	version := resource.Version
	if version == "" {
		version = "*"
	}
	out := authorizer.AttributesRecord{
		User: who, Verb: resource.Verb, Namespace: resource.Namespace, APIGroup: resource.Group, APIVersion: version,
		Resource: resource.Resource, Subresource: resource.Subresource, Name: resource.Name, ResourceRequest: true,
	}
	if s := resource.LabelSelector; s != nil {
		out.LabelSelectorRequirements, out.LabelSelectorParsingErr = labelRequirements(s)
	}
	if s := resource.FieldSelector; s != nil {
		out.FieldSelectorRequirements, out.FieldSelectorParsingErr = fieldRequirements(s)
	}
	return out
}

var labelOperators = map[metav1.LabelSelectorOperator]selection.Operator{
	metav1.LabelSelectorOpIn:           selection.In,
	metav1.LabelSelectorOpNotIn:        selection.NotIn,
	metav1.LabelSelectorOpExists:       selection.Exists,
	metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
}

// labelRequirements returns those requirements that are understood, and an error for the others.
func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := parsed.Requirements()
		return requirements, nil
	}
	var out labels.Requirements
	var failed error
	for _, r := range s.Requirements {
		operator, ok := labelOperators[r.Operator]
		if !ok {
			failed = errors.Join(failed, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		out = append(out, *requirement)
	}
	return out, failed
}

// fieldRequirements returns those requirements that are understood, and an error for the others.
func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return parsed.Requirements(), nil
	}
	var out fields.Requirements
	var failed error
	for _, r := range s.Requirements {
		operator := selection.Equals
		switch r.Operator {
		case metav1.FieldSelectorOpIn:
		case metav1.FieldSelectorOpNotIn:
			operator = selection.NotEquals
		case metav1.FieldSelectorOpExists, metav1.FieldSelectorOpDoesNotExist:
			failed = errors.Join(failed, fmt.Errorf("fieldSelectors do not yet support %v", r.Operator))
			continue
		default:
			failed = errors.Join(failed, fmt.Errorf("%q is not a valid field selector operator", r.Operator))
			continue
		}
		if len(r.Values) != 1 {
			failed = errors.Join(failed, errors.New("fieldSelectors must have one value"))
			continue
		}
		out = append(out, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
	}
	return out, failed
}

// validateSubject checks a question about a named user.
func validateSubject(spec authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateQuestion(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateQuestion(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	if (resource == nil) == (path == nil) {
		errs = append(errs, field.Invalid(field.NewPath("spec"), path, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if resource == nil {
		return errs
	}
	at := field.NewPath("spec.resourceAttributes")
	if s := resource.FieldSelector; s != nil {
		selector := at.Child("fieldSelector")
		errs = append(errs, validateForms(selector, s.RawSelector, len(s.Requirements))...)
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(r,
				metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, selector.Child("requirements").Index(i))...)
		}
	}
	if s := resource.LabelSelector; s != nil {
		selector := at.Child("labelSelector")
		errs = append(errs, validateForms(selector, s.RawSelector, len(s.Requirements))...)
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(r,
				metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, selector.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// validateForms checks that a selector has one of its two forms.
func validateForms(at *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}

// validateEmpty checks that a review has no metadata but what the server sets.
func validateEmpty(metadata metav1.ObjectMeta, text string) field.ErrorList {
	metadata.ManagedFields = nil
	if equality.Semantic.DeepEqual(metav1.ObjectMeta{}, metadata) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), metadata, text)}
}
